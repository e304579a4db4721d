//! Commands that change jobs: `stop`, `kill`, `rm`, `prune`; `pause`, `resume`, `update`.

pub(crate) mod stop;
pub(crate) mod update;
