//! Text onto standard output: tables, JSON and YAML, a job's output. Knows no command.

pub(crate) mod json;
pub(crate) mod lines;
pub(crate) mod output;
pub(crate) mod sink;
pub(crate) mod table;
