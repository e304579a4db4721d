//! Commands that only read: `ps`, `status`, `inspect`, `logs`, `stream`, `wait`, `stats`, `info`,
//! `auth whoami`, `audit`.

pub(crate) mod audit;
pub(crate) mod info;
pub(crate) mod inspect;
pub(crate) mod logs;
pub(crate) mod ps;
pub(crate) mod quota;
pub(crate) mod stats;
