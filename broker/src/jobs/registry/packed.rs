//! The summary of a finished job in as few bytes as there are facts, in one piece of memory: there may be a million.
//! Knows one job; keeps no other's.

use std::fmt::Write;

use bincode::config::{Configuration, standard};
use serde::{Deserialize, Serialize};

use crate::model::id::JobId;
use crate::model::identity::Identity;
use crate::model::state::State;
use crate::store::index::{RequestKey, Stamp, Summary};

const CONFIG: Configuration = standard();

/// What the digest of a request that [`Request`](crate::model::request::Request) makes begins with; 64 hexadecimal
/// digits follow.
const SHA256: &str = "2:";

/// A [`Summary`] without its id, encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packed(Box<[u8]>);

/// What is in a [`Packed`], where it is. The fields are [`Summary`]'s.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct View<'a> {
    pub(crate) owner: &'a str,
    pub(crate) name: &'a str,
    pub(crate) ended_ns: u64,
    pub(crate) kept: u64,
    state: u8,
    pub(crate) stamp: Stamp,
    #[serde(borrow)]
    pub(crate) request: Option<RequestView<'a>>,
    labels: Vec<(&'a str, &'a str)>,
}

/// A [`RequestKey`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RequestView<'a> {
    pub(crate) id: &'a str,
    #[serde(borrow)]
    digest: Digest<'a>,
    pub(crate) is_retryable: bool,
}

#[derive(Debug, Serialize, Deserialize)]
enum Digest<'a> {
    Sha256([u8; 32]),
    /// Of an older broker.
    Text(&'a str),
}

impl Packed {
    pub(crate) fn of(job: &Summary) -> Packed {
        let request = job.request.as_deref().map(|key| RequestView {
            id: &key.id,
            digest: Digest::of(&key.digest),
            is_retryable: key.is_retryable,
        });
        let view = View {
            owner: job.owner.as_str(),
            name: &job.name,
            ended_ns: job.ended_ns,
            kept: job.kept,
            state: job.state as u8,
            stamp: job.stamp,
            request,
            labels: job.labels.iter().map(|(key, value)| (&**key, &**value)).collect(),
        };
        let bytes = bincode::serde::encode_to_vec(&view, CONFIG).expect("memory takes every field");
        Packed(bytes.into())
    }

    pub(crate) fn view(&self) -> View<'_> {
        let decoded = bincode::serde::borrow_decode_from_slice(&self.0, CONFIG);
        decoded.expect("made by Packed::of alone").0
    }

    /// As it was; `owner` is the one that [`View::owner`] names.
    pub(crate) fn unpack(&self, id: JobId, owner: &Identity) -> Summary {
        let view = self.view();
        let key = |request: &RequestView<'_>| RequestKey {
            id: request.id.into(),
            digest: request.digest().into(),
            is_retryable: request.is_retryable,
        };
        Summary {
            id,
            owner: owner.clone(),
            name: view.name.into(),
            labels: view.labels.iter().map(|&(key, value)| (key.into(), value.into())).collect(),
            state: view.state(),
            ended_ns: view.ended_ns,
            kept: view.kept,
            request: view.request.as_ref().map(|request| Box::new(key(request))),
            stamp: view.stamp,
        }
    }
}

impl View<'_> {
    /// `finished` or `lost`.
    pub(crate) fn state(&self) -> State {
        if self.state == State::Lost as u8 { State::Lost } else { State::Finished }
    }

    /// The value of a label.
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        let at = self.labels.binary_search_by(|(own, _)| (*own).cmp(key)).ok()?;
        self.labels.get(at).map(|(_, value)| *value)
    }
}

impl RequestView<'_> {
    /// As it is on record.
    pub(crate) fn digest(&self) -> String {
        match &self.digest {
            Digest::Text(text) => (*text).to_owned(),
            Digest::Sha256(bytes) => {
                bytes.iter().fold(SHA256.to_owned(), |mut text, byte| {
                    let _ = write!(text, "{byte:02x}"); // a String takes it
                    text
                })
            }
        }
    }
}

impl Digest<'_> {
    fn of(text: &str) -> Digest<'_> {
        let bytes = text.strip_prefix(SHA256).and_then(bytes_of);
        bytes.map_or(Digest::Text(text), Digest::Sha256)
    }
}

/// Of 64 hexadecimal digits in lower case: others would not be read as they were written.
fn bytes_of(digits: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let pairs = digits.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    pairs.collect::<Option<Vec<u8>>>()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::index::tests::summary;

    #[test]
    fn what_was_packed_is_unpacked_as_it_was() {
        let digest = format!("2:{}", "0123456789abcdef".repeat(4));
        let digests = ["", "2:", "2:d", &digest, &digest.to_uppercase(), &digest[2..], "2:é"];
        for (digest, state) in digests.into_iter().zip([State::Finished, State::Lost].repeat(4)) {
            for is_retryable in [true, false] {
                let key = RequestKey { id: "r".into(), digest: digest.into(), is_retryable };
                let labels = [("a".into(), "".into()), ("team".into(), "x".into())].into();
                let request = Some(Box::new(key));
                let job = Summary { request, labels, state, kept: u64::MAX, ..summary("ann", 7) };
                let packed = Packed::of(&job);
                assert_eq!(packed.unpack(job.id, &job.owner), job);
                assert_eq!(
                    (packed.view().label("team"), packed.view().label("b")),
                    (Some("x"), None)
                );
            }
        }
    }

    /// What a million of them need: an id of a request as jobctl chooses it, a name, a label.
    #[test]
    fn a_summary_of_the_usual_kind_has_less_than_152_bytes() {
        let digest = format!("2:{}", "0123456789abcdef".repeat(4));
        let id = JobId::fresh().to_string().into();
        let key = RequestKey { id, digest: digest.into(), is_retryable: false };
        let ended_ns = 1_764_000_000_000_000_000;
        let job = Summary { request: Some(Box::new(key)), ..summary("ann.example", ended_ns) };
        let length = Packed::of(&job).0.len();
        assert!(length < 152, "{length} bytes");
    }
}
