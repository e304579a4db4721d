//! The layer between HTTP/2 and the gRPC handlers. It must not pass on a request before the whole message has arrived,
//! in time and within the memory budget; an answer is charged until it is sent.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Body as _, Bytes, Frame, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response};
use job_api::{REASON_METADATA, REQUEST_ID_METADATA};
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::ServiceExt;

use crate::grpc;
use crate::grpc::{PeerResult, transport_status};
use crate::journal;
use crate::model::call::{MAX_REASON, Origin};
use crate::model::identity::Identity;
use crate::quota::Permit;
use crate::serve::budget::{ANSWER_TIME, Account, MESSAGE_TIME};
use crate::serve::ending::Ended;
use crate::serve::messages::{Fault, Messages};

/// The calls of one connection.
#[derive(Clone)]
pub(super) struct Calls {
    routes: Routes,
    peer: PeerResult,
    address: SocketAddr,
    account: Account,
    untaken: Arc<Notify>,
    ended: Ended,
}

/// Calls with a stream of requests.
const CLIENT_STREAMS: [&str; 3] = [
    "/job.v1.JobService/WriteInput",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];
/// Calls with a stream of responses. Each bounds its own memory.
const SERVER_STREAMS: [&str; 4] = [
    "/job.v1.JobService/RunJob",
    "/job.v1.JobService/StreamOutput",
    "/job.v1.JobService/ReadAudit",
    "/grpc.health.v1.Health/Watch",
];

/// Maximum bytes of headers that a streaming call keeps.
const KEPT_HEADERS: usize = 1 << 10;
/// Maximum bytes of one of them: a reason in base64.
const KEPT_HEADER: usize = MAX_REASON * 4 / 3 + 4;
/// Responses up to this size are not charged: they are no larger than the call itself.
const SMALL_ANSWER: usize = 4 << 10;

impl Calls {
    /// `untaken` is notified if the client does not read a response in time; `ended` ends all calls.
    pub(super) fn new(
        routes: Routes,
        (peer, address): (PeerResult, SocketAddr),
        account: Account,
        untaken: Arc<Notify>,
        ended: Ended,
    ) -> Calls {
        Calls { routes, peer, address, account, untaken, ended }
    }

    /// Handles one call. Whatever the answer is, it has the call's id.
    pub(super) async fn call(
        self,
        mut request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        let origin = Origin::new(self.address);
        request.extensions_mut().insert(Arc::clone(&self.peer));
        request.extensions_mut().insert(origin);
        trim(request.headers_mut());
        let path = request.uri().path();
        let sends_one = !CLIENT_STREAMS.contains(&path);
        let gets_one = sends_one && !SERVER_STREAMS.contains(&path);
        let (account, untaken) = (self.account.clone(), Arc::clone(&self.untaken));
        let ended = self.ended.clone();
        let answer =
            async { if sends_one { self.one(request).await } else { self.many(request).await } };
        let response = tokio::select! {
            biased;
            status = ended.clone().status() => refused(status),
            response = journal::in_call(origin.request_id, answer) => response,
        };
        let response = if gets_one {
            counted(response, &account, &untaken).await
        } else {
            response.map(|body| ended.cut(body))
        };
        let mut response = grpc::limit_status_size(response);
        if let Ok(id) = HeaderValue::try_from(origin.request_id.to_string()) {
            response.headers_mut().insert(REQUEST_ID_METADATA, id);
        }
        Ok(response)
    }

    /// A call with one request message. The request is charged until the response is ready.
    async fn one(self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let mut messages = Messages::new(body, self.account);
        let message = match timeout(MESSAGE_TIME, messages.only()).await {
            Ok(Ok(message)) => message,
            Ok(Err(fault)) => return refused(fault),
            Err(_) => return refused(Fault::TooSlow),
        };
        let whole = Body::new(Full::new(message));
        let Ok(response) = self.routes.oneshot(Request::from_parts(head, whole)).await;
        response
    }

    /// A call with a stream of messages, which may be hours apart.
    async fn many(self, request: Request<Incoming>) -> Response<Body> {
        let request = request.map(|body| Body::new(Input(Messages::new(body, self.account))));
        let Ok(response) = self.routes.oneshot(request).await;
        response
    }
}

fn refused(status: impl Into<Status>) -> Response<Body> {
    status.into().into_http()
}

/// Headers stay in memory as long as their call. If they are long, only those are kept that gRPC and the audit need.
fn trim(headers: &mut HeaderMap) {
    let length: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if length <= KEPT_HEADERS {
        return;
    }
    let needed = [
        header::CONTENT_TYPE,
        header::TE,
        HeaderName::from_static("grpc-encoding"),
        HeaderName::from_static("grpc-timeout"),
        HeaderName::from_static(REQUEST_ID_METADATA),
        HeaderName::from_static(REASON_METADATA),
    ];
    let kept = needed.into_iter().filter_map(|name| {
        let value = headers.get(&name).filter(|value| value.len() <= KEPT_HEADER)?;
        Some((name, value.clone()))
    });
    *headers = kept.collect();
}

/// Returns the response with its message charged until HTTP/2 has sent or discarded it.
async fn counted(
    response: Response<Body>,
    account: &Account,
    untaken: &Arc<Notify>,
) -> Response<Body> {
    let (head, mut body) = response.into_parts();
    if body.is_end_stream() {
        return Response::from_parts(head, body);
    }
    // Polling the first frame makes tonic encode the message.
    let first = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
    let first = match first.map(|frame| frame.map(Frame::into_data)) {
        Some(Ok(Ok(bytes))) if bytes.len() > SMALL_ANSWER => match account.answer(bytes.len()) {
            Ok(permit) => {
                let [least, each] = ANSWER_TIME;
                let within = least + each * (bytes.len() >> 16) as u32;
                let taken = notify_unless_taken(within, Arc::clone(untaken));
                Some(Ok(Frame::data(Bytes::from_owner(Unsent { bytes, permit, taken }))))
            }
            Err(exceeded) => return refused(transport_status::quota_exceeded(exceeded)),
        },
        Some(Ok(Ok(bytes))) => Some(Ok(Frame::data(bytes))),
        Some(Ok(Err(frame))) => Some(Ok(frame)),
        Some(Err(status)) => Some(Err(status)),
        None => None,
    };
    Response::from_parts(head, Body::new(PeekedBody { first, rest: body }))
}

/// Notifies `untaken` unless the returned sender is dropped in time.
fn notify_unless_taken(within: Duration, untaken: Arc<Notify>) -> oneshot::Sender<Infallible> {
    let (taken, is_taken) = oneshot::channel();
    tokio::spawn(async move {
        if timeout(within, is_taken).await.is_err() {
            untaken.notify_one();
        }
    });
    taken
}

/// A message that is charged as long as any part of it is in memory.
struct Unsent {
    bytes: Bytes,
    #[allow(dead_code, reason = "given back when dropped")]
    permit: Permit<Identity>,
    #[allow(dead_code, reason = "its other end notices when it is dropped")]
    taken: oneshot::Sender<Infallible>,
}

impl AsRef<[u8]> for Unsent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A body whose first frame has been taken out.
struct PeekedBody {
    first: Option<Result<Frame<Bytes>, Status>>,
    rest: Body,
}

impl hyper::body::Body for PeekedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }
}

/// Messages one by one. Polling for the next message releases the previous one.
struct Input(Messages);

impl hyper::body::Body for Input {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.0.release();
        let message = ready!(self.0.poll_next(context)).map_err(Status::from).transpose();
        Poll::Ready(message.map(|message| message.map(Frame::data)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_that_nobody_takes_is_told_and_one_that_was_taken_is_not() {
        let untaken = Arc::new(Notify::new());
        let within = Duration::from_millis(20);
        drop(notify_unless_taken(within, Arc::clone(&untaken)));
        assert!(timeout(10 * within, untaken.notified()).await.is_err());
        let kept = notify_unless_taken(within, Arc::clone(&untaken));
        timeout(Duration::from_secs(10), untaken.notified()).await.unwrap();
        drop(kept);
    }
}
