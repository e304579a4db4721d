//! Limits the size of every status just before the broker sends it: tonic and the health and reflection services
//! repeat the caller's text in theirs. It must not change a status within the limit.

use http_body_util::BodyExt as _;
use hyper::header::{HeaderMap, HeaderValue};
use tonic::body::Body;

use crate::grpc::bounded::MAX_STATUS;

const MESSAGE: &str = "grpc-message";
const DETAILS: &str = "grpc-status-details-bin";
/// Bytes that a truncated message keeps.
const KEPT_MESSAGE: usize = 1024;

/// Returns the response; a status above the limit loses its details and the end of its message.
pub(crate) fn limit_status_size(response: hyper::Response<Body>) -> hyper::Response<Body> {
    let (mut head, body) = response.into_parts();
    limit_headers(&mut head.headers); // of a call that failed before its first message
    let body = body.map_frame(|mut frame| {
        if let Some(trailers) = frame.trailers_mut() {
            limit_headers(trailers);
        }
        frame
    });
    hyper::Response::from_parts(head, Body::new(body))
}

fn limit_headers(headers: &mut HeaderMap) {
    let length = |name| headers.get(name).map_or(0, HeaderValue::len);
    if length(MESSAGE) + length(DETAILS) < MAX_STATUS {
        return;
    }
    headers.remove(DETAILS);
    let Some(message) = headers.get(MESSAGE).filter(|message| message.len() > KEPT_MESSAGE) else {
        return;
    };
    let message = message.as_bytes();
    let mut kept = message[..last_char_boundary(message)].to_vec();
    kept.extend(b"%E2%80%A6"); // an ellipsis
    if let Ok(kept) = HeaderValue::from_bytes(&kept) {
        headers.insert(MESSAGE, kept);
    }
}

/// The last character boundary before [`KEPT_MESSAGE`]; each escaped byte is `%XX`.
fn last_char_boundary(message: &[u8]) -> usize {
    let (mut at, mut boundary) = (0, 0);
    while at <= KEPT_MESSAGE {
        // UTF-8: a byte 10xxxxxx continues a character.
        if !matches!(message[at..], [b'%', b'8' | b'9' | b'A' | b'B' | b'a' | b'b', ..]) {
            boundary = at;
        }
        at += if message[at] == b'%' { 3 } else { 1 };
    }
    boundary
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "as tonic makes them")]
    fn a_status_that_somebody_else_has_worded_is_cut_as_well() {
        for text in ["x".repeat(100_000), "\x1b".repeat(100_000), format!("x{}", "ä".repeat(9999))]
        {
            let response = limit_status_size(Status::unimplemented(&text).into_http());
            let headers = response.headers();
            let length: usize = headers.iter().map(|(n, v)| n.as_str().len() + v.len()).sum();
            assert!(length < MAX_STATUS, "{length}");
            let kept = Status::from_header_map(headers).unwrap();
            let kept = kept.message().strip_suffix('…').unwrap_or_else(|| panic!("{kept}"));
            assert!(kept.len() > 100 && text.starts_with(kept), "{kept}");
        }
    }
}
