//! The digest that tells a repeated request from another one with the same id. Depends on the request
//! alone, not on the configuration or the host, which may have changed since the first call.

use aws_lc_rs::digest::{SHA256, digest};

use crate::model::isolation::Isolation;
use crate::model::spec::JobSpec;

/// What the digest of a request as it came begins with. Records without it are of brokers that digested
/// the checked spec, see [`older_digest`]; those find no digest of ours equal to their own, and refuse a
/// repetition rather than run it twice.
const AS_IT_CAME: &str = "2:";

/// A request to start a job; by default one without an id, which is never a repetition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    pub(crate) id: String,
    pub(crate) digest: String,
}

impl Request {
    /// `id` is chosen by the caller, empty if not; `sent` are the bytes of all else that the caller has
    /// sent, always the same for the same.
    pub fn new(id: String, sent: impl FnOnce() -> Vec<u8>) -> Request {
        if id.is_empty() {
            return Request::default();
        }
        let digest = format!("{AS_IT_CAME}{}", hex_digest(&sent()));
        Request { id, digest }
    }
}

/// Whether a digest on record is of the checked spec.
pub(crate) fn is_older(digest: &str) -> bool {
    !digest.starts_with(AS_IT_CAME)
}

/// As brokers before this one recorded: of the checked spec, which depends on the configuration, values of
/// the environment included, which the spec's own JSON leaves out.
pub fn older_digest(spec: &JobSpec) -> String {
    let mut own = spec.clone();
    own.isolation = Isolation::default(); // which is left out: there was none
    if own.working_directory.is_empty() {
        own.working_directory = "/".into();
    }
    let request = serde_json::json!([own, spec.env]);
    hex_digest(request.to_string().as_bytes())
}

fn hex_digest(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::limits::{LimitKind, LimitTables, Limits};
    use crate::model::spec::{Defaults, JobRequest};

    #[test]
    fn a_request_without_an_id_costs_no_digest() {
        let request = Request::new(String::new(), || panic!("nobody compares it"));
        assert!(request.digest.is_empty());
    }

    #[test]
    fn a_digest_says_of_what_it_is() {
        let request = Request::new("r".into(), || b"abc".to_vec());
        let of_abc = "2:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(request.digest, of_abc);
        assert!(!is_older(&request.digest) && is_older(&request.digest[2..]));
    }

    /// From the release before: a record that has it must be known again.
    #[test]
    fn the_digest_of_older_records_stays_what_it_was() {
        let mut limits = Limits::default();
        limits.set(LimitKind::Time, Some(5_000));
        let wish = JobRequest {
            argv: vec!["sh".into(), "-c".into(), "exit 3".into()],
            env: [("A".to_owned(), "1".to_owned())].into(),
            labels: [("team".to_owned(), "x".to_owned())].into(),
            name: "n".into(),
            limits,
            ..JobRequest::default()
        };
        let defaults = Defaults {
            run_as: vec!["nobody".into()],
            stop_timeout: Duration::from_secs(10),
            limits: LimitTables::default(),
            labels: Default::default(),
            isolation: Default::default(),
        };
        let spec = JobSpec::check(wish, &defaults).unwrap();
        let golden = "81584c9adfa7fc90453218ffdfd85771ebee4b6cb772f4181426fe3d9c73f11e";
        assert_eq!(older_digest(&spec), golden);
    }
}
