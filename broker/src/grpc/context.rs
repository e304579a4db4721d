//! What a call says of itself beside its message: where it came from, its ids, the caller's reason. It must not trust any
//! of what the client chose.

use std::sync::Arc;

use job_api::{REASON_METADATA, REQUEST_ID_METADATA};
use tonic::{Request, Status};

use crate::grpc::status;
use crate::model::call::{CallContext, KEPT_CLIENT_ID, MAX_REASON, Origin};
use crate::model::identity::Peer;

/// The context of a call of this peer.
///
/// # Errors
/// INVALID_ARGUMENT: the reason is not UTF-8, or too long. It is what an auditor will read, so it is not cut.
pub(super) fn of_request<T>(peer: Arc<Peer>, request: &Request<T>) -> Result<CallContext, Status> {
    let origin = request.extensions().get::<Origin>();
    let Origin { address, request_id } = *origin.ok_or_else(|| status::unauthenticated(None))?;
    let client_request_id = request.metadata().get(REQUEST_ID_METADATA).map(|id| {
        let id = id.as_encoded_bytes();
        String::from_utf8_lossy(&id[..id.len().min(KEPT_CLIENT_ID)]).into()
    });
    Ok(CallContext { peer, address, request_id, client_request_id, reason: reason(request)? })
}

fn reason<T>(request: &Request<T>) -> Result<Option<Box<str>>, Status> {
    let fault = |fault: String| status::field("metadata x-reason-bin", fault);
    let Some(reason) = request.metadata().get_bin(REASON_METADATA) else { return Ok(None) };
    let bytes = reason.to_bytes().map_err(|_| fault("is not base64".into()))?;
    if bytes.len() > MAX_REASON {
        let length = bytes.len();
        return Err(fault(format!("has {length} bytes; at most {MAX_REASON} are allowed")));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| fault("is not UTF-8".into()))?;
    Ok(Some(text.trim()).filter(|text| !text.is_empty()).map(Into::into))
}
