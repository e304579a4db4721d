//! What to run: the request as it comes in, and the [`JobSpec`] that it becomes once every field
//! has been checked. There is no other way to a `JobSpec`.

use std::collections::BTreeMap;
use std::time::Duration;

use job_grammar::echo::echo;
use job_grammar::names::{check_env, check_name};
use serde::ser::Error as _;
use serde::{Deserialize, Serialize, Serializer};

use crate::model::isolation::{Isolation, IsolationRequest, IsolationRules};
use crate::model::limits::MAX_PATH;
use crate::model::limits::{ByDefault, LimitTables, Limits, MAX_DURATION, Violation, Violations};

/// Longest single argument or environment string: the kernel's MAX_ARG_STRLEN, execve(2).
pub(crate) const MAX_STRING: usize = 128 * 1024 - 1;
/// Most bytes of arguments and environment together.
pub const MAX_STRINGS: usize = 1024 * 1024;
/// Most labels, and bytes of one label's value.
pub const MAX_LABELS: (usize, usize) = (32, 256);

/// A request for a job, unchecked. A field that is `None` or empty takes a default.
#[derive(Debug, Clone, Default)]
pub struct JobRequest {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Added to the default environment.
    pub env: BTreeMap<String, String>,
    /// Absolute; empty is the job's own directory.
    pub working_directory: String,
    /// An account that the configuration allows; empty is its first.
    pub run_as: String,
    /// For people.
    pub name: String,
    /// For programs.
    pub labels: BTreeMap<String, String>,
    /// 1 to 64; 0 is SIGTERM.
    pub stop_signal: i32,
    /// From the stop signal to the kill.
    pub stop_timeout: Option<Duration>,
    /// What happens to output past its limit.
    pub output_policy: OutputPolicy,
    /// A pipe instead of `/dev/null`.
    pub stdin: bool,
    /// What it may use.
    pub limits: Limits,
    /// What it sees of the host.
    pub isolation: IsolationRequest,
}

/// What happens to output past the limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputPolicy {
    /// Keep reading, count, say so.
    #[default]
    Discard,
    /// Stop reading; the job blocks.
    Block,
    /// End the job.
    Kill,
}

/// Where defaults and permissions come from.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// Allowed accounts, the default first.
    pub run_as: Vec<String>,
    /// From the stop signal to the kill.
    pub stop_timeout: Duration,
    /// For what does not say, and for what says too much.
    pub limits: LimitTables,
    /// Labels that every job gets, whatever it says.
    pub labels: BTreeMap<String, String>,
    /// What a job sees of the host.
    pub isolation: IsolationRules,
}

/// How much there is in all, of a spec that has only the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole {
    /// Arguments.
    pub arguments: usize,
    /// Their bytes.
    pub argument_bytes: usize,
    /// Variables of the environment.
    pub variables: usize,
}

/// Why a request is no job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpecError {
    /// Fields that break a rule.
    Invalid(Violations),
    /// More bytes of arguments and environment than a job may have.
    TooLarge(String),
}

/// A job that may be run: every field checked, every default filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields of `JobRequest`, after the checks")]
pub struct JobSpec {
    pub argv: Vec<String>,
    /// Values live in memory only until the shim has them; on disk there are names.
    #[serde(with = "names_only")]
    pub env: BTreeMap<String, String>,
    pub working_directory: String,
    pub run_as: String,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub stop_signal: i32,
    pub stop_timeout: Duration,
    pub output_policy: OutputPolicy,
    pub stdin: bool,
    pub limits: Limits,
    /// The limits that come from defaults.
    pub by_default: ByDefault,
    #[serde(default, skip_serializing_if = "Isolation::is_none")]
    pub isolation: Isolation,
    /// Where this is only the beginning, as in memory: never written, since the rest would be lost.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none", serialize_with = "never")]
    pub whole: Option<Whole>,
}

impl JobSpec {
    /// Checks every field and fills in the defaults.
    ///
    /// # Errors
    /// [`SpecError`]; of broken rules, all at once.
    pub fn check(request: JobRequest, defaults: &Defaults) -> Result<JobSpec, SpecError> {
        check_strings(&request.argv, &request.env)?; // first: what follows looks at every byte
        let mut faults = Faults::default();
        faults.argv(&request.argv, !request.isolation.image.is_empty());
        for (name, value) in &request.env {
            faults.rule("env", check_env(name, value));
        }
        faults.rule("working_directory", check_directory(&request.working_directory));
        if !request.name.is_empty() {
            faults.rule(
                "name",
                check_name(&request.name).map_err(|f| format!("{} {f}", echo(&request.name))),
            );
        }
        faults.labels(&request.labels);
        faults.rule("stop_timeout", check_duration(request.stop_timeout));
        if !(0..=64).contains(&request.stop_signal) {
            let fault = format!("is {}; signals are 1 to 64, 0 is SIGTERM", request.stop_signal);
            faults.rule("stop_signal", Err(fault));
        }
        let run_as =
            if request.run_as.is_empty() { defaults.run_as[0].clone() } else { request.run_as };
        if !defaults.run_as.contains(&run_as) {
            let (asked, allowed) = (echo(&run_as), defaults.run_as.join(", "));
            faults.rule("run_as", Err(format!("{asked} is not allowed here; allowed: {allowed}")));
        }
        let limits = faults.limits(&request.limits, &defaults.limits);
        let isolation = faults.isolation(&request.isolation, &defaults.isolation);
        faults.none()?;
        let mut labels = request.labels;
        labels.extend(defaults.labels.clone());
        Ok(JobSpec {
            argv: request.argv,
            env: request.env,
            working_directory: request.working_directory,
            run_as,
            name: request.name,
            labels,
            stop_signal: if request.stop_signal == 0 { libc::SIGTERM } else { request.stop_signal },
            stop_timeout: request.stop_timeout.unwrap_or(defaults.stop_timeout),
            output_policy: request.output_policy,
            stdin: request.stdin,
            by_default: limits.not_in(&request.limits),
            limits,
            isolation,
            whole: None,
        })
    }
}

#[derive(Default)]
struct Faults(Violations);

impl Faults {
    fn rule(&mut self, field: &'static str, verdict: Result<(), String>) {
        if let Err(fault) = verdict {
            self.0.add(Violation { field, fault });
        }
    }

    /// An image may say which program it is.
    fn argv(&mut self, argv: &[String], has_image: bool) {
        let verdict = match argv.first().map(String::as_str) {
            None if has_image => Ok(()),
            None => Err("must name a program".into()),
            Some("") => Err("the program's name must not be empty".into()),
            _ => Ok(()),
        };
        self.rule("argv", verdict);
        if let Some(at) = argv.iter().position(|arg| arg.contains('\0')) {
            self.rule("argv", Err(format!("argument {at} has a NUL byte")));
        }
    }

    fn labels(&mut self, labels: &BTreeMap<String, String>) {
        let (most, longest) = MAX_LABELS;
        if labels.len() > most {
            self.rule("labels", Err(format!("are {}; at most {most} are allowed", labels.len())));
        }
        for (key, value) in labels {
            self.rule("labels", check_name(key).map_err(|f| format!("key {} {f}", echo(key))));
            if value.len() > longest {
                self.rule(
                    "labels",
                    Err(format!("value of {} is longer than {longest} bytes", echo(key))),
                );
            }
        }
    }

    fn limits(&mut self, asked: &Limits, tables: &LimitTables) -> Limits {
        let limits = asked.with_defaults(tables);
        self.0.extend(asked.faults());
        self.0.extend(tables.above(&limits));
        limits
    }

    fn isolation(&mut self, asked: &IsolationRequest, rules: &IsolationRules) -> Isolation {
        rules.resolve(asked).unwrap_or_else(|violations| {
            self.0.extend(violations.first);
            Isolation::default()
        })
    }

    fn none(self) -> Result<(), SpecError> {
        if self.0.is_empty() { Ok(()) } else { Err(SpecError::Invalid(self.0)) }
    }
}

fn check_directory(path: &str) -> Result<(), String> {
    if path.len() > MAX_PATH {
        return Err(format!("has {} bytes; at most {MAX_PATH} are allowed", path.len()));
    }
    if path.contains('\0') {
        return Err("has a NUL byte".into());
    }
    if path.is_empty() || path.starts_with('/') {
        return Ok(());
    }
    Err(format!("{} is not an absolute path", echo(path)))
}

fn check_duration(time: Option<Duration>) -> Result<(), String> {
    match time {
        Some(time) if time > MAX_DURATION => Err(format!(
            "is {time:?}; it must be from 0 s to {} days",
            MAX_DURATION.as_secs() / 86_400
        )),
        _ => Ok(()),
    }
}

fn check_strings(argv: &[String], env: &BTreeMap<String, String>) -> Result<(), SpecError> {
    let lengths =
        argv.iter().map(String::len).chain(env.iter().map(|(k, v)| k.len() + v.len() + 1));
    let (mut total, mut longest) = (0, 0);
    for length in lengths {
        total += length + 1;
        longest = longest.max(length);
    }
    if longest > MAX_STRING {
        return Err(SpecError::TooLarge(format!(
            "an argument or variable has {longest} bytes; the kernel takes {MAX_STRING} (execve(2))"
        )));
    }
    if total > MAX_STRINGS {
        return Err(SpecError::TooLarge(format!(
            "arguments and environment have {total} bytes together; at most {MAX_STRINGS} are allowed"
        )));
    }
    Ok(())
}

fn never<S: Serializer>(_: &Option<Whole>, _: S) -> Result<S::Ok, S::Error> {
    Err(S::Error::custom("this is only the beginning of a spec"))
}

mod names_only {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        env: &BTreeMap<String, String>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(env.keys())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BTreeMap<String, String>, D::Error> {
        let names = Vec::<String>::deserialize(from)?;
        Ok(names.into_iter().map(|name| (name, String::new())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::limits::LimitKind;

    fn check(change: impl FnOnce(&mut JobRequest)) -> Result<JobSpec, SpecError> {
        let mut request = JobRequest { argv: vec!["true".into()], ..JobRequest::default() };
        change(&mut request);
        let defaults = Defaults {
            run_as: vec!["nobody".into()],
            stop_timeout: Duration::from_secs(10),
            limits: LimitTables::default(),
            labels: BTreeMap::new(),
            isolation: IsolationRules::default(),
        };
        JobSpec::check(request, &defaults)
    }

    fn broken_field(change: impl FnOnce(&mut JobRequest)) -> &'static str {
        match check(change) {
            Err(SpecError::Invalid(violations)) => violations.first[0].field,
            other => panic!("not refused for a field: {other:?}"),
        }
    }

    #[test]
    fn an_empty_request_takes_the_defaults() {
        let spec = check(|_| ()).unwrap();
        assert_eq!((spec.working_directory.as_str(), spec.run_as.as_str()), ("", "nobody"));
        assert_eq!(spec.stop_signal, 15);
        assert_eq!(spec.stop_timeout, Duration::from_secs(10));
    }

    #[test]
    fn every_broken_rule_names_its_field() {
        assert_eq!(broken_field(|request| request.argv.clear()), "argv");
        assert_eq!(broken_field(|request| request.argv.push("a\0b".into())), "argv");
        assert_eq!(broken_field(|request| request.argv[0].clear()), "argv");
        assert_eq!(
            broken_field(|request| _ = request.env.insert("LD_PRELOAD".into(), "x".into())),
            "env"
        );
        assert_eq!(
            broken_field(|request| request.working_directory = "tmp".into()),
            "working_directory"
        );
        assert_eq!(broken_field(|request| request.run_as = "root".into()), "run_as");
        assert_eq!(broken_field(|request| request.name = "a b".into()), "name");
        assert_eq!(
            broken_field(|request| _ = request.labels.insert("".into(), "".into())),
            "labels"
        );
        let zero = |request: &mut JobRequest| request.limits.set(LimitKind::Time, Some(0));
        assert_eq!(broken_field(zero), "time_limit");
        assert_eq!(broken_field(|request| request.stop_signal = 65), "stop_signal");
        assert_eq!(
            broken_field(|request| request.stop_timeout = Some(Duration::MAX)),
            "stop_timeout"
        );
    }

    #[test]
    fn what_the_kernel_would_not_exec_is_too_large() {
        let long = |request: &mut JobRequest| request.argv.push("x".repeat(MAX_STRING + 1));
        assert!(matches!(check(long), Err(SpecError::TooLarge(_))));
        let many =
            |request: &mut JobRequest| request.argv.extend((0..20).map(|_| "x".repeat(60_000)));
        assert!(matches!(check(many), Err(SpecError::TooLarge(_))));
    }

    #[test]
    fn values_of_the_environment_do_not_reach_the_disk() {
        let spec =
            check(|request| _ = request.env.insert("TOKEN".into(), "secret".into())).unwrap();
        let json = serde_json::to_string(&spec).unwrap();
        assert!(json.contains("TOKEN") && !json.contains("secret"), "{json}");
    }

    #[test]
    fn a_beginning_is_never_written_in_the_place_of_the_whole() {
        let mut spec = check(|request| request.argv.push("x".repeat(2000))).unwrap();
        assert!(serde_json::to_string(&spec).is_ok());
        spec.abridge();
        assert!(serde_json::to_string(&spec).is_err());
        let whole = spec.whole.unwrap();
        assert_eq!((whole.arguments, whole.argument_bytes), (2, 2004));
        let again = spec.abridged();
        assert_eq!(again, spec);
    }
}
