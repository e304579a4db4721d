//! The JSON records of a job. They are additive within a format: unknown fields are ignored, new
//! ones have defaults, so that an older broker reads what a newer one wrote.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use job_shim::record::{self, ExitFile};
use job_shim::wire::{Cause, Exited, Source, Started};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::account::Account;
use crate::model::id::JobId;
use crate::model::identity::Identity;
use crate::model::limits::LimitStatus;
use crate::model::spec::JobSpec;
use crate::model::state::{Contact, Failure, Snapshot, State, Totals};
use crate::model::usage::Usage;
use crate::store::error::RecordError;
use crate::store::seal;
use job_launch::cgroup::limits::ResolvedDisks;
use job_launch::host::{self, BootId};

/// The major version of these records.
pub const FORMAT: u32 = 1;

/// `spec.json`: what was asked, by whom. Written before anything else exists of the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecRecord {
    /// [`FORMAT`].
    pub format: u32,
    /// The job.
    pub id: JobId,
    /// Who asked.
    pub owner: Identity,
    /// Chosen by the caller; empty if not.
    pub request_id: String,
    /// Tells a repetition from another request with the same id: `2:` and SHA-256 in hex of the request as it
    /// came; without `2:` of the checked spec, as earlier brokers wrote it. Empty without a request id.
    pub request_digest: String,
    /// Nanoseconds since 1970.
    pub created_ns: u64,
    /// The boot in which it was asked.
    pub boot_id: Uuid,
    /// What is run.
    pub spec: JobSpec,
    /// As whom.
    pub account: Account,
    /// The disks that its limits speak of.
    #[serde(rename = "found", default)]
    pub disks: ResolvedDisks,
    /// What became of its limits, the oldest first.
    #[serde(default)]
    pub changes: Vec<ChangeRecord>,
    /// The last change may not have reached the kernel: to be applied again.
    #[serde(default)]
    pub is_changing: bool,
    /// The rule of the policy that allowed the start; empty for a job of an earlier broker.
    #[serde(default)]
    pub allowed_by: AllowedBy,
    /// By which certificate it was started; none of a job that did not come over the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateRecord>,
}

/// A rule of the policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AllowedBy {
    /// The name of its role.
    pub role: String,
    /// Which of its clauses.
    pub rule: String,
    /// Whether the program was opened and judged, and is executed by its descriptor.
    pub is_checked: bool,
}

/// What a revocation list knows a certificate by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRecord {
    /// Hexadecimal digits.
    pub serial: String,
    /// The beginning of its issuer's name.
    pub issuer: String,
}

impl SpecRecord {
    /// What memory keeps of it.
    pub(crate) fn abridged(&self) -> SpecRecord {
        SpecRecord {
            format: self.format,
            id: self.id,
            owner: self.owner.clone(),
            request_id: self.request_id.clone(),
            request_digest: self.request_digest.clone(),
            created_ns: self.created_ns,
            boot_id: self.boot_id,
            spec: self.spec.abridged(),
            account: self.account.clone(),
            disks: self.disks.clone(),
            changes: self.changes.clone(),
            is_changing: self.is_changing,
            allowed_by: self.allowed_by.clone(),
            certificate: self.certificate.clone(),
        }
    }
}

/// One limit that was changed while the job ran.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChangeRecord {
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// Who changed it.
    pub by: String,
    /// `memory.max`, `time_limit`.
    pub name: String,
    /// As the kernel writes it; empty where there was none.
    pub from: String,
    /// Likewise.
    pub to: String,
}

/// `spawn.json`: which process the shim is. Written before GO.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnRecord {
    /// [`FORMAT`].
    pub format: u32,
    /// The boot in which it lives.
    pub boot_id: Uuid,
    /// Its pid.
    pub shim_pid: u32,
    /// See [`job_launch::host::start_time`].
    pub shim_start_time: u64,
    /// What both prove themselves with.
    pub nonce: Uuid,
    /// A second copy of what no second run may follow from, should `spec.json` be damaged.
    #[serde(default)]
    pub request: Option<RequestRecord>,
}

/// Whose request a job is; in quarantine `request.json`, where it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRecord {
    /// Who asked.
    pub owner: Identity,
    /// Chosen by the caller; empty if not.
    pub id: String,
}

/// `stop.json`: an accepted stop request. Valid in the job's own boot only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRecord {
    /// [`FORMAT`].
    pub format: u32,
    /// In which role, by the number of the wire.
    pub source: u8,
    /// By name.
    pub by: String,
    /// The end of the grace period, milliseconds since the host was started.
    pub kill_at_ms: u64,
}

/// `final.json`: the end, once nothing of the job is left but its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalRecord {
    /// [`FORMAT`].
    pub format: u32,
    /// `finished` or `lost`.
    pub state: State,
    /// If it ever ran.
    pub started: Option<StartedRecord>,
    /// If its exit is known.
    pub exit: Option<ExitRecord>,
    /// If it is not.
    pub failure: Option<Failure>,
    /// Nanoseconds since 1970.
    pub ended_ns: u64,
    /// How long the program ran, in nanoseconds of CLOCK_BOOTTIME.
    #[serde(default)]
    pub ran_ns: Option<u64>,
    /// Of the output.
    pub totals: Totals,
    /// Output may be missing.
    #[serde(default)]
    pub incomplete: bool,
    /// What it has used.
    #[serde(default)]
    pub usage: Usage,
    /// What it could have used.
    #[serde(default)]
    pub limits: Vec<LimitStatus>,
}

impl FinalRecord {
    /// What is known of a job at its end.
    pub fn new(
        known: &Snapshot,
        totals: Totals,
        usage: Usage,
        limits: Vec<LimitStatus>,
    ) -> FinalRecord {
        let known = known.clone();
        FinalRecord {
            format: FORMAT,
            state: known.state,
            started: known.started.map(Into::into),
            exit: known.exited.map(Into::into),
            failure: known.failure,
            ended_ns: known.ended_ns.unwrap_or_else(host::now_ns),
            ran_ns: known.ran.and_then(|ran| u64::try_from(ran.as_nanos()).ok()),
            totals,
            incomplete: known.incomplete,
            usage,
            limits,
        }
    }

    /// The same, as it was known then.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let last = self.clone();
        Snapshot {
            state: last.state,
            started: last.started.map(Into::into),
            exited: last.exit.map(Into::into),
            ended_ns: Some(last.ended_ns),
            ran: last.ran_ns.map(Duration::from_nanos),
            failure: last.failure,
            incomplete: last.incomplete,
            contact: Contact::Good,
        }
    }
}

/// [`Started`], as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields of `Started`")]
pub struct StartedRecord {
    pub pid: u32,
    pub time_ns: u64,
}

/// [`Exited`], as JSON; cause and source by the numbers of the wire, which never change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields of `Exited`")]
pub struct ExitRecord {
    pub wait_status: i32,
    pub cause: u8,
    pub source: u8,
    pub by: String,
    pub time_ns: u64,
}

impl From<Started> for StartedRecord {
    fn from(s: Started) -> Self {
        StartedRecord { pid: s.pid, time_ns: s.time_ns }
    }
}

impl From<StartedRecord> for Started {
    fn from(s: StartedRecord) -> Self {
        Started { pid: s.pid, time_ns: s.time_ns }
    }
}

impl From<Exited> for ExitRecord {
    fn from(e: Exited) -> Self {
        ExitRecord {
            wait_status: e.wait_status,
            cause: e.cause as u8,
            source: e.source as u8,
            by: e.by,
            time_ns: e.time_ns,
        }
    }
}

impl From<ExitRecord> for Exited {
    fn from(e: ExitRecord) -> Self {
        Exited {
            wait_status: e.wait_status,
            cause: Cause::from_number(e.cause).unwrap_or(Cause::Exited),
            source: Source::from_number(e.source).unwrap_or(Source::System),
            by: e.by,
            time_ns: e.time_ns,
        }
    }
}

/// The names of the JSON records.
pub const SPEC: &str = "spec.json";
/// See [`SpawnRecord`].
pub const SPAWN: &str = "spawn.json";
/// See [`StopRecord`].
pub const STOP: &str = "stop.json";
/// See [`RequestRecord`].
pub const REQUEST: &str = "request.json";
/// See [`FinalRecord`].
pub const FINAL: &str = "final.json";

/// Reads a record; `None` where there is none.
///
/// # Errors
/// [`RecordError`].
pub fn load<T: DeserializeOwned>(dir: &Path, name: &'static str) -> Result<Option<T>, RecordError> {
    let bytes = match fs::read(dir.join(name)) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(RecordError::Read { name, source }),
    };
    parse(name, &bytes).map(Some)
}

/// A record from the bytes of its file.
///
/// # Errors
/// As [`load`], but for read(2).
pub(crate) fn parse<T: DeserializeOwned>(
    name: &'static str,
    bytes: &[u8],
) -> Result<T, RecordError> {
    let record =
        serde_json::from_slice(bytes).map_err(|e| match serde_json::from_slice(bytes) {
            Ok(Head { format }) if format > FORMAT => {
                RecordError::NewerFormat { name, format, known: FORMAT }
            }
            _ => RecordError::Damaged(format!("{name}: {e}")),
        })?;
    seal::check(bytes).map_err(|fault| RecordError::Damaged(format!("{name}: {fault}")))?;
    Ok(record)
}

/// What every record has, whatever its format.
#[derive(Deserialize)]
struct Head {
    format: u32,
}

/// Writes a record, whole or not at all unless the host crashes; returns the file for whoever must
/// make it durable.
///
/// # Errors
/// As write(2).
pub fn save<T: Serialize>(dir: &Path, name: &str, value: &T) -> io::Result<fs::File> {
    crate::store::replace(dir, name, &seal::seal(value)?)
}

/// Writes a record, whole or not at all, whatever crashes; it is durable when this returns.
///
/// # Errors
/// As write(2) and fsync(2).
pub fn save_durably<T: Serialize>(dir: &Path, name: &str, value: &T) -> io::Result<()> {
    crate::store::replace_durably(dir, name, &seal::seal(value)?)
}

/// Reads the shim's `exit`; an absent file says nothing.
///
/// # Errors
/// As read(2).
pub fn load_exit(dir: &Path, boot_id: &BootId) -> io::Result<ExitFile> {
    match fs::read(dir.join(record::FILE_NAME)) {
        Ok(bytes) => Ok(ExitFile::from_bytes(&bytes, boot_id)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(ExitFile::default()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_a_newer_broker_is_read() {
        let json = r#"{"format":1,"boot_id":"00000000-0000-0000-0000-000000000000","shim_pid":7,
            "shim_start_time":9,"nonce":"00000000-0000-0000-0000-000000000001","novelty":{"x":1}}"#;
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(SPAWN), json).unwrap();
        let record: SpawnRecord = load(dir.path(), SPAWN).unwrap().unwrap();
        assert_eq!((record.shim_pid, record.shim_start_time), (7, 9));
    }

    #[test]
    fn a_record_of_another_format_is_told_from_a_damaged_one() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(SPAWN), r#"{"format":2,"shim":{"pid":7}}"#).unwrap();
        let fault = load::<SpawnRecord>(dir.path(), SPAWN).unwrap_err();
        assert!(matches!(fault, RecordError::NewerFormat { format: 2, .. }), "{fault}");
        fs::write(dir.path().join(SPAWN), r#"{"format":1,"shim":{"pid":7}}"#).unwrap();
        let fault = load::<SpawnRecord>(dir.path(), SPAWN).unwrap_err();
        assert!(matches!(fault, RecordError::Damaged(_)), "{fault}");
    }

    #[test]
    fn an_absent_record_is_none_and_a_corrupt_one_says_where() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load::<SpawnRecord>(dir.path(), SPAWN).unwrap(), None);
        fs::write(dir.path().join(SPAWN), "{\"format\":").unwrap();
        let fault = load::<SpawnRecord>(dir.path(), SPAWN).unwrap_err().to_string();
        assert!(fault.contains("spawn.json") && fault.contains("line 1"), "{fault}");
    }
}
