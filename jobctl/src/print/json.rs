//! `-o json` and `-o yaml`: the message of the `.proto`, with its field names.

use std::fmt::Write as _;

use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, Kind, MessageDescriptor, ReflectMessage, SerializeOptions,
};
use serde_json::Value;

use crate::cli::Format;
use crate::failure::{Failure, Result};

/// Fields without presence are always there, so that a script finds what it looks for; `optional`
/// ones and messages only when set, but for [`USAGE`].
const OPTIONS: SerializeOptions = SerializeOptions::new()
    .use_proto_field_name(true)
    .stringify_64_bit_integers(false)
    .skip_default_fields(false);

/// The message called `name` in the contract as text with a newline at its end. Formats other than
/// YAML give JSON.
pub(crate) fn shown(name: &str, message: &impl Message, format: Format) -> Result<String> {
    let fault = |why: String| Failure::usage(format!("cannot print {name}: {why}"));
    let pool = DescriptorPool::decode(job_api::DESCRIPTORS).map_err(|e| fault(e.to_string()))?;
    let described = pool
        .get_message_by_name(&format!("job.v1.{name}"))
        .ok_or_else(|| fault("the contract does not describe it".into()))?;
    let dynamic = DynamicMessage::decode(described, message.encode_to_vec().as_slice())
        .map_err(|e| fault(e.to_string()))?;
    let mut value = dynamic
        .serialize_with_options(serde_json::value::Serializer, &OPTIONS)
        .map_err(|e| fault(e.to_string()))?;
    tidy(&mut value, &dynamic.descriptor());
    text(&value, format)
}

/// What is no message of the contract, in the same forms.
pub(crate) fn text(value: &Value, format: Format) -> Result<String> {
    let fault = |why: String| Failure::usage(format!("cannot print the answer: {why}"));
    if format == Format::Yaml {
        return serde_yaml_ng::to_string(value).map_err(|e| fault(e.to_string()));
    }
    let json = serde_json::to_string_pretty(value).map_err(|e| fault(e.to_string()))?;
    Ok(harmless(&json) + "\n")
}

/// What the kernel does not tell of a job's use is `null`: whoever reads a figure must see that it
/// is not known, rather than look for a field that this host never prints.
const USAGE: &str = "job.v1.Usage";

/// An enumeration that says nothing is left out: a running job has no cause, rather than the cause
/// `cause_unspecified`.
fn tidy(value: &mut Value, message: &MessageDescriptor) {
    let Value::Object(object) = value else { return };
    if message.full_name() == USAGE {
        for field in message.fields() {
            object.entry(field.name()).or_insert(Value::Null);
        }
        if object.get("has_io") == Some(&Value::Bool(false)) {
            object.insert("io".into(), Value::Null);
        }
    }
    for field in message.fields().filter(|field| !field.is_map()) {
        match (field.kind(), object.get_mut(field.name())) {
            (Kind::Enum(kind), Some(Value::String(word)))
                if *word == kind.default_value().name() =>
            {
                object.remove(field.name());
            }
            (Kind::Message(inner), Some(Value::Array(all))) => {
                all.iter_mut().for_each(|one| tidy(one, &inner));
            }
            (Kind::Message(inner), Some(one)) => tidy(one, &inner),
            _ => {}
        }
    }
}

/// JSON leaves DEL and the C1 controls as they are, and a terminal would obey them. They stand in
/// strings only, where `\u009b` means the same.
pub(crate) fn harmless(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\n' => out.push(c),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use job_api::v1::{Cause, Job, JobSpec, ListJobsResponse, Usage, job::State};

    fn job() -> Job {
        Job {
            id: "0198".into(),
            state: State::Finished.into(),
            cause: Cause::Exited.into(),
            exit_code: Some(0),
            stdout_bytes: 1 << 60,
            created_at: Some(prost_types::Timestamp { seconds: 0, nanos: 0 }),
            spec: Some(JobSpec {
                argv: vec!["a\u{9b}\u{7f}\n".into()],
                time_limit: Some(prost_types::Duration { seconds: 90, nanos: 0 }),
                ..JobSpec::default()
            }),
            ..Job::default()
        }
    }

    #[test]
    fn json_has_the_protos_names_words_for_enums_and_numbers_for_numbers() {
        let text = shown("Job", &job(), Format::Json).expect("prints");
        let value: Value = serde_json::from_str(&text).expect("is JSON");
        assert_eq!(value["state"], "finished");
        assert_eq!(value["cause"], "exited");
        assert_eq!(value["exit_code"], 0);
        assert_eq!(value["stdout_bytes"], 1u64 << 60);
        assert_eq!(value["stderr_bytes"], 0);
        assert_eq!(value["created_at"], "1970-01-01T00:00:00Z");
        assert_eq!(value["spec"]["time_limit"], "90s");
        assert_eq!(value["spec"]["argv"][0], "a\u{9b}\u{7f}\n");
        assert!(value.get("signal").is_none());
    }

    #[test]
    fn an_enumeration_that_says_nothing_is_left_out() {
        let jobs = vec![Job { cause: 0, ..job() }];
        let list = ListJobsResponse { jobs, ..ListJobsResponse::default() };
        let text = shown("ListJobsResponse", &list, Format::Json).expect("prints");
        let value: Value = serde_json::from_str(&text).expect("is JSON");
        assert_eq!(value["jobs"][0]["state"], "finished");
        assert!(value["jobs"][0].get("cause").is_none(), "{text}");
    }

    #[test]
    fn what_the_kernel_does_not_tell_is_null() {
        let usage = Usage { cpu_usage_usec: Some(0), has_io: false, ..Usage::default() };
        let text = shown("Job", &Job { usage: Some(usage), ..job() }, Format::Json);
        let value: Value = serde_json::from_str(&text.expect("prints")).expect("is JSON");
        assert_eq!(value["usage"]["cpu_usage_usec"], 0);
        for absent in ["memory_peak_bytes", "cpu_pressure", "io", "wall_time"] {
            assert_eq!(value["usage"].get(absent), Some(&Value::Null), "{absent}");
        }
        let with_io = Usage { has_io: true, ..Usage::default() };
        let text = shown("Usage", &with_io, Format::Json).expect("prints");
        let value: Value = serde_json::from_str(&text).expect("is JSON");
        assert_eq!(value["io"], serde_json::json!([]));
    }

    #[test]
    fn json_and_yaml_hold_no_control_characters() {
        for format in [Format::Json, Format::Yaml] {
            let text = shown("Job", &job(), format).expect("prints");
            assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
        }
    }

    #[test]
    fn an_empty_list_is_a_list() {
        let text =
            shown("ListJobsResponse", &ListJobsResponse::default(), Format::Json).expect("prints");
        let value: Value = serde_json::from_str(&text).expect("is JSON");
        assert_eq!(value["jobs"], serde_json::json!([]));
    }
}
