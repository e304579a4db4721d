//! The end of a connection's calls before their time, with a status that says why. It must reach calls that wait,
//! streams that are silent, and calls that come later.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Bytes, Frame};
use hyper::header::HeaderMap;
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;

/// Ends all calls of one connection.
#[derive(Debug)]
pub(super) struct End(watch::Sender<Option<Status>>);

/// Learns of the end.
#[derive(Debug, Clone)]
pub(super) struct Ended(watch::Receiver<Option<Status>>);

/// The end of a connection that has just begun.
pub(super) fn pair() -> (End, Ended) {
    let (sender, receiver) = watch::channel(None);
    (End(sender), Ended(receiver))
}

impl End {
    /// Ends all calls, those that come later included.
    pub(super) fn end(&self, status: Status) {
        self.0.send_replace(Some(status));
    }
}

impl Ended {
    /// Returns the status once the end has come.
    pub(super) async fn status(mut self) -> Status {
        match self.0.wait_for(Option::is_some).await.map(|status| status.clone()) {
            Ok(Some(status)) => status,
            // The connection is over: nobody reads an answer.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// The same response, which ends with the status of the end if that comes first.
    pub(super) fn cut(self, body: Body) -> Body {
        Body::new(Cut { body: Some(body), ended: Box::pin(self.status()) })
    }
}

struct Cut {
    body: Option<Body>,
    ended: Pin<Box<dyn Future<Output = Status> + Send>>,
}

impl hyper::body::Body for Cut {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.body.is_none() {
            return Poll::Ready(None);
        }
        if let Poll::Ready(status) = self.ended.as_mut().poll(context) {
            self.body = None;
            let mut trailers = HeaderMap::new();
            let added = status.add_header(&mut trailers);
            return Poll::Ready(Some(added.map(|()| Frame::trailers(trailers))));
        }
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(hyper::body::Body::is_end_stream)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tonic::Code;

    use super::*;

    #[tokio::test]
    async fn a_silent_stream_ends_with_the_status_and_a_later_one_at_once() {
        let (end, ended) = pair();
        let silent = || {
            Body::new(http_body_util::StreamBody::new(futures_util::stream::pending::<
                Result<Frame<Bytes>, Status>,
            >()))
        };
        let mut stream = ended.clone().cut(silent());
        let mut idle = Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut stream.frame()).poll(&mut idle).is_pending());
        #[allow(clippy::disallowed_methods, reason = "a test")]
        end.end(Status::new(Code::Unauthenticated, "revoked"));
        for mut stream in [stream, ended.cut(silent())] {
            let trailers = stream.frame().await.unwrap().unwrap().into_trailers().unwrap();
            assert_eq!(trailers["grpc-status"], "16");
            assert!(stream.frame().await.is_none());
        }
    }
}
