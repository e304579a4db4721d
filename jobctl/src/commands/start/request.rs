//! The options of `run` and `start`, made into what the broker takes.

use std::collections::BTreeMap;
use std::path::Path;

use job_api::v1::{JobSpec, Limits, OutputPolicy, StartJobRequest};

use crate::cli::{JobOptions, Policy, rlimits};
use crate::client::calls::wire_duration;
use crate::failure::{Failure, Result};

/// The request, with the request id given or a fresh one: repeating it never starts a second job.
pub(crate) fn start_request(
    options: JobOptions,
    argv: Vec<String>,
    stdin: bool,
) -> Result<StartJobRequest> {
    let env = environment(&options, |name| std::env::var(name).ok())?;
    let mut limits = options.limits.limits()?;
    limits.rlimits = rlimits(options.ulimits)?;
    limits.job_dir_bytes = options.job_dir_size;
    let policy = options.output_policy.map_or(OutputPolicy::Unspecified, |policy| match policy {
        Policy::Discard => OutputPolicy::Discard,
        Policy::Block => OutputPolicy::Block,
        Policy::Kill => OutputPolicy::Kill,
    });
    let spec = JobSpec {
        argv,
        env,
        working_directory: options.workdir.unwrap_or_default(),
        run_as: options.user.unwrap_or_default(),
        name: options.name.unwrap_or_default(),
        labels: options.labels.into_iter().collect(),
        time_limit: options.time.map(wire_duration).transpose()?,
        stop_signal: options.stop_signal.unwrap_or_default(),
        stop_timeout: options.stop_timeout.map(wire_duration).transpose()?,
        output_limit_bytes: options.limits.output_limit.unwrap_or_default(),
        output_policy: policy.into(),
        stdin,
        limits: Some(limits).filter(|limits| *limits != Limits::default()),
        cpu_time_limit: options.limits.cpu_time.map(wire_duration).transpose()?,
        isolation: options.isolation.message(),
    };
    let request_id = options.request_id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    Ok(StartJobRequest { spec: Some(spec), request_id, ..Default::default() })
}

/// Files first, in order, then `-e`; the later wins.
fn environment(
    options: &JobOptions,
    own: impl Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, String>> {
    let mut env = BTreeMap::new();
    for path in &options.env_file {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::usage(format!("cannot read --env-file {}: {error}", path.display()))
        })?;
        for (line, entry) in entries(&text) {
            let (name, value) = variable(entry, &own).map_err(|why| in_file(path, line, &why))?;
            env.insert(name, value);
        }
    }
    for entry in &options.env {
        let (name, value) =
            variable(entry, &own).map_err(|why| Failure::usage(format!("--env: {why}")))?;
        env.insert(name, value);
    }
    Ok(env)
}

fn in_file(path: &Path, line: usize, why: &str) -> Failure {
    Failure::usage(format!("--env-file {}, line {line}: {why}", path.display()))
}

/// The lines that say something, with their numbers. Values are taken as they stand, quotes too.
fn entries(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.trim_start()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// `NAME=VALUE`, or `NAME` with the value that it has here.
fn variable(
    entry: &str,
    own: impl Fn(&str) -> Option<String>,
) -> std::result::Result<(String, String), String> {
    if let Some((name, value)) = entry.split_once('=') {
        if name.is_empty() {
            return Err(format!("\"{entry}\" has no name before its \"=\""));
        }
        return Ok((name.to_owned(), value.to_owned()));
    }
    let name = entry.trim_end();
    match own(name) {
        Some(value) => Ok((name.to_owned(), value)),
        None => Err(format!("{name} is not set here (as UTF-8), so there is no value to take")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(name: &str) -> Option<String> {
        (name == "HOME").then(|| "/home/me".to_owned())
    }

    #[test]
    fn a_variable_is_given_or_taken_from_here() {
        let pair = |a: &str, b: &str| Ok((a.to_owned(), b.to_owned()));
        assert_eq!(variable("A=b=c", own), pair("A", "b=c"));
        assert_eq!(variable("A=", own), pair("A", ""));
        assert_eq!(variable("HOME", own), pair("HOME", "/home/me"));
        assert!(variable("UNSET", own).is_err());
        assert!(variable("=x", own).is_err());
    }

    #[test]
    fn an_environment_file_has_comments_and_keeps_quotes() {
        let text = "# comment\n\nA=1\n  B=\"two words\" \nC\n";
        let found: Vec<_> = entries(text).collect();
        assert_eq!(found, [(3, "A=1"), (4, "B=\"two words\" "), (5, "C")]);
    }
}
