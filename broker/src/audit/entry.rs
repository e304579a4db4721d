//! One entry: what it says, as a JSON object whose names are those of the Elastic Common Schema (ECS 8.11); what ECS has no
//! name for is below `job`. It must bound every text, and a value must never make a second line.

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};
use serde_json::{Map, Value, json};

use crate::config::AuditArguments;
use crate::model::call::CallContext;
use crate::model::id::JobId;
use crate::model::identity::{Identity, Peer};
use crate::model::isolation::Isolation;
use crate::model::spec::JobSpec;

/// Bytes of a job's arguments that a line has, and of the names of its environment.
const MAX_ARGUMENTS: usize = 8 << 10;
/// Bytes of any other text.
const MAX_TEXT: usize = 1 << 10;

macro_rules! own_actions {
    ($($(#[$doc:meta])* $action:ident $name:literal,)*) => {
        /// Actions that are no verbs of the policy: the ends of jobs, connections, and what the broker does of itself.
        /// Whoever asks for the lines of an action that is neither has mistyped it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum OwnAction {
            $($(#[$doc])* $action,)*
        }

        impl OwnAction {
            /// All of them.
            pub(crate) const ALL: &[OwnAction] = &[$(OwnAction::$action),*];

            /// Its name in a line.
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(OwnAction::$action => $name,)*
                }
            }
        }
    };
}

own_actions! {
    /// A job has ended.
    End "end",
    /// The retention has removed a job.
    Remove "remove",
    /// A job's records are damaged.
    Quarantine "quarantine",
    /// The host goes down: all jobs are stopped.
    Drain "drain",
    /// The configuration was read again.
    Reload "reload",
    /// So were the certificates, whose files have changed.
    ReloadCertificates "reload-certificates",
    /// A connection was refused.
    Connection "connection",
    /// A connection was ended for its certificate.
    ConnectionEnd "connection-end",
    /// A broker begins.
    BrokerStart "broker-start",
    /// A broker ends.
    BrokerStop "broker-stop",
    /// The oldest lines were removed.
    AuditDrop "audit-drop",
    /// Reads and refusals were counted.
    AuditFolded "audit-folded",
    /// Entries found no room.
    AuditLost "audit-lost",
    /// Lines that a checkpoint knows are not there.
    AuditMissing "audit-missing",
    /// A crash has left half a line.
    AuditRepair "audit-repair",
}

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The policy says yes; what is done about it follows.
    Allowed,
    /// The policy says no.
    Denied,
    /// It was done.
    Done,
    /// It was allowed and not done.
    Failed,
    /// A job has ended.
    End,
    /// What the broker does of itself.
    Broker,
}

/// One entry. Times, numbers and hashes are added when it is written.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    phase: Phase,
    action: String,
    category: &'static str,
    members: Map<String, Value>,
}

impl Entry {
    /// About a verb of the policy.
    pub(crate) fn new(phase: Phase, verb: impl Display) -> Entry {
        Entry { phase, action: verb.to_string(), category: "process", members: Map::new() }
    }

    /// About what is no verb.
    pub(crate) fn own(phase: Phase, action: OwnAction) -> Entry {
        Entry::new(phase, action.name())
    }

    /// Who: identity and roles, and what is known of the call.
    pub(crate) fn by(
        mut self,
        identity: &Identity,
        roles: Vec<String>,
        call: Option<&CallContext>,
    ) -> Entry {
        self.set("user", json!({"name": identity.as_str(), "roles": roles}));
        let Some(call) = call else { return self };
        self = self.address(call.address).certificate(&call.peer);
        let mut request = json!({"id": call.request_id.to_string()});
        if let Some(id) = &call.client_request_id {
            request["client_id"] = json!(id);
        }
        self.set("http", json!({"request": request}));
        if let Some(reason) = &call.reason {
            self.set("reason", json!(reason));
        }
        self
    }

    /// Who, of what no caller did.
    pub(crate) fn by_name(mut self, name: &str) -> Entry {
        self.set("user", json!({"name": bounded(name, MAX_TEXT)}));
        self
    }

    /// From where.
    pub(crate) fn address(mut self, address: SocketAddr) -> Entry {
        self.set("source", json!({"ip": address.ip().to_string(), "port": address.port()}));
        self
    }

    /// With which certificate.
    pub(crate) fn certificate(mut self, peer: &Peer) -> Entry {
        let (serial, issuer) = (&peer.serial, &peer.issuer);
        let x509 = json!({"serial_number": serial, "issuer": {"distinguished_name": issuer}});
        let hash = json!({"sha256": peer.fingerprint});
        self.set("tls", json!({"client": {"x509": x509, "hash": hash}}));
        self
    }

    /// What it is about in ECS's words, if not a process.
    pub(crate) fn category(mut self, category: &'static str) -> Entry {
        self.category = category;
        self
    }

    /// By which rule of the policy, or key of the configuration.
    pub(crate) fn rule(mut self, rule: impl Display) -> Entry {
        self.set("rule", json!({"name": bounded(&rule.to_string(), MAX_TEXT)}));
        self
    }

    /// Which job, and whose.
    pub(crate) fn job(mut self, id: JobId, owner: &Identity) -> Entry {
        let job = self.members.entry("job").or_insert_with(|| json!({}));
        job["id"] = json!(id.to_string());
        job["owner"] = json!(owner.as_str());
        self
    }

    /// What a job runs: as much of its arguments as is configured, and no value of its environment.
    pub(crate) fn spec(mut self, spec: &JobSpec, account: &str, as_: AuditArguments) -> Entry {
        let program = spec.argv.first().map_or("", String::as_str);
        let mut process = json!({
            "executable": bounded(program, MAX_TEXT),
            "args_count": spec.argv.len(),
            "working_directory": bounded(&spec.working_directory, MAX_TEXT),
            "env_vars": list(spec.env.keys()),
        });
        match as_ {
            AuditArguments::Full => process["args"] = list(spec.argv.iter()),
            AuditArguments::Program => {}
            AuditArguments::Hash => process["args_sha256"] = json!(arguments_hash(&spec.argv)),
        }
        if as_ == AuditArguments::Full && length(spec.argv.iter()) > MAX_ARGUMENTS {
            process["args_sha256"] = json!(arguments_hash(&spec.argv));
        }
        self.set("process", process);
        let job = self.members.entry("job").or_insert_with(|| json!({}));
        job["account"] = json!(bounded(account, MAX_TEXT));
        if !spec.name.is_empty() {
            job["name"] = json!(spec.name);
        }
        let Isolation { image, image_digest, rootfs, .. } = &spec.isolation;
        for (key, value) in [("image", image), ("image_digest", image_digest), ("rootfs", rootfs)] {
            if !value.is_empty() {
                job[key] = json!(bounded(value, MAX_TEXT));
            }
        }
        self
    }

    /// What else there is to say, for people.
    pub(crate) fn message(mut self, message: impl Display) -> Entry {
        let message = bounded(&message.to_string(), MAX_TEXT);
        if !message.is_empty() {
            self.set("message", json!(message));
        }
        self
    }

    /// Why it failed: the status's code and message.
    pub(crate) fn error(mut self, code: impl Display, message: &str) -> Entry {
        let message = bounded(message, MAX_TEXT);
        self.set("error", json!({"code": code.to_string(), "message": message}));
        self
    }

    /// How a job ended: a member of `job`.
    pub(crate) fn end(mut self, name: &str, value: impl Into<Value>) -> Entry {
        let job = self.members.entry("job").or_insert_with(|| json!({}));
        job[name] = match value.into() {
            Value::String(text) => json!(bounded(&text, MAX_TEXT)),
            value => value,
        };
        self
    }

    /// The JSON object, on one line: control characters of values are escaped.
    pub(crate) fn to_json(&self, now: SystemTime) -> String {
        let (types, outcome) = match self.phase {
            Phase::Allowed => ("allowed", "unknown"),
            Phase::Denied => ("denied", "failure"),
            Phase::Done => ("info", "success"),
            Phase::Failed => ("info", "failure"),
            Phase::End => ("end", "success"),
            Phase::Broker => ("info", "success"),
        };
        let mut event = json!({
            "kind": "event",
            "category": [self.category],
            "type": [types],
            "action": self.action,
            "outcome": outcome,
        });
        let mut object = self.members.clone();
        if let Some(reason) = object.remove("reason") {
            event["reason"] = reason;
        }
        let time = prost_types::Timestamp::from(now).to_string();
        object.insert("@timestamp".into(), json!(time));
        object.insert("event".into(), event);
        Value::Object(object).to_string()
    }

    fn set(&mut self, name: &str, value: Value) {
        self.members.insert(name.into(), value);
    }
}

/// The beginning of a text, marked where it was cut.
fn bounded(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let is_kept = |(at, c): &(usize, char)| at + c.len_utf8() <= max;
    text.char_indices().take_while(is_kept).map(|(_, c)| c).chain(['…']).collect()
}

fn length<'a>(words: impl Iterator<Item = &'a String>) -> usize {
    words.map(String::len).sum()
}

/// Words until [`MAX_ARGUMENTS`] bytes are full; the last may be cut, and 1,024 at most.
fn list<'a>(words: impl Iterator<Item = &'a String>) -> Value {
    let mut room = MAX_ARGUMENTS;
    let kept = words.take(1024).map_while(|word| {
        let kept = (room > 0).then(|| bounded(word, room));
        room = room.saturating_sub(word.len().max(1));
        kept
    });
    Value::Array(kept.map(Value::String).collect())
}

/// SHA-256 of all arguments, each with the NUL that ends it, as of `/proc/PID/cmdline`.
fn arguments_hash(argv: &[String]) -> String {
    let mut digest = Context::new(&SHA256);
    for argument in argv {
        digest.update(argument.as_bytes());
        digest.update(&[0]);
    }
    digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_caller_writes_makes_a_second_line_or_a_long_one() {
        let chosen = "\n{\"audit\":{}}\r\u{1b}[2J\u{2028}".repeat(5_000);
        let entry = Entry::new(Phase::Failed, "start").message(&chosen).error("Internal", &chosen);
        let line = entry.to_json(SystemTime::now());
        assert_eq!(line.lines().count(), 1);
        assert!(!line.contains(char::is_control) && line.len() < 32 << 10, "{}", line.len());
    }

    #[test]
    fn of_many_or_long_arguments_the_beginning_is_kept() {
        let long = ["x".repeat(100_000), "y".into()];
        let Value::Array(kept) = list(long.iter()) else { panic!() };
        assert_eq!(kept.len(), 1);
        let many = vec![String::new(); 100_000];
        let Value::Array(kept) = list(many.iter()) else { panic!() };
        assert_eq!(kept.len(), 1024);
    }
}
