//! Reassembles the messages of a request's body before anything decodes them. It must charge an account for the bytes
//! as they arrive, and reject a message that is too large by its announced length.
//!
//! tonic reserves an announced length at once and has no timeout for the rest.

use std::fmt::Display;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Incoming};
use tokio::time::{Sleep, sleep};
use tonic::Status;

use crate::grpc::{MAX_REQUEST, transport_status};
use crate::quota::Exceeded;
use crate::serve::budget::{Account, Charge, MESSAGE_TIME};

/// The compression flag, and the length of the message in four bytes.
const PREFIX: usize = 5;

/// Why there is no next message.
#[derive(Debug)]
pub(super) enum Fault {
    /// The announced length.
    TooLarge(usize),
    TooMuch(Exceeded),
    TooSlow,
    /// A second message in a call that takes one.
    Second,
    /// The client has disconnected, or violates HTTP/2.
    Broken(String),
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Status {
        match fault {
            Fault::TooLarge(length) => transport_status::message_too_large(length),
            Fault::TooMuch(exceeded) => transport_status::quota_exceeded(exceeded),
            Fault::TooSlow => transport_status::message_timeout(MESSAGE_TIME),
            Fault::Second => transport_status::second_message(),
            Fault::Broken(error) => transport_status::stream_error(error),
        }
    }
}

/// The messages of one body. A returned message stays charged until [`Messages::release`].
pub(super) struct Messages<B = Incoming> {
    body: B,
    account: Account,
    charge: Option<Charge>,
    /// The part of the last frame that is not processed yet.
    ahead: Bytes,
    /// An incomplete message, from its prefix.
    begun: Vec<u8>,
    /// The timeout of the incomplete message.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<B> Messages<B>
where
    B: Body<Data = Bytes, Error: Display> + Unpin,
{
    pub(super) fn new(body: B, account: Account) -> Messages<B> {
        let (ahead, begun) = (Bytes::new(), Vec::new());
        Messages { body, account, charge: None, ahead, begun, deadline: None }
    }

    /// The only message of a unary call. Returns a missing or truncated message as it is: tonic rejects it.
    pub(super) async fn only(&mut self) -> Result<Bytes, Fault> {
        let mut next = async || std::future::poll_fn(|context| self.poll_next(context)).await;
        let Some(message) = next().await? else { return Ok(Bytes::new()) };
        // tonic rejects a compressed message by its flag.
        let is_plain = message.first() == Some(&0);
        if is_plain && !self.is_over() {
            let second = std::future::poll_fn(|context| self.poll_next(context)).await?;
            return if second.is_some() { Err(Fault::Second) } else { Ok(message) };
        }
        Ok(message)
    }

    /// The next message, with its prefix.
    pub(super) fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, Fault>> {
        loop {
            if let Some(message) = self.take()? {
                self.deadline = None;
                return Poll::Ready(Ok(Some(message)));
            }
            let frame = match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(frame) => frame,
                Poll::Pending if self.begun.is_empty() => return Poll::Pending,
                Poll::Pending => {
                    let deadline =
                        self.deadline.get_or_insert_with(|| Box::pin(sleep(MESSAGE_TIME)));
                    ready!(deadline.as_mut().poll(context));
                    return Poll::Ready(Err(Fault::TooSlow));
                }
            };
            match frame
                .transpose()
                .map_err(|e| Fault::Broken(e.to_string()))?
                .map(|frame| frame.into_data())
            {
                Some(Ok(data)) => self.add(data)?,
                // Trailers, which no call has, or the end of the body.
                Some(Err(_)) | None => {
                    let part = mem::take(&mut self.begun);
                    return Poll::Ready(Ok((!part.is_empty()).then(|| part.into())));
                }
            }
        }
    }

    /// Releases the charge of the returned message.
    pub(super) fn release(&mut self) {
        let kept = self.kept();
        if let Some(charge) = &mut self.charge {
            let _ = charge.set(kept); // the charge decreases: this cannot fail
        }
    }

    fn is_over(&self) -> bool {
        self.ahead.is_empty() && self.body.is_end_stream()
    }

    fn kept(&self) -> usize {
        self.ahead.len() + self.begun.len()
    }

    /// Adds a frame; the previous frame has been processed.
    fn add(&mut self, data: Bytes) -> Result<(), Fault> {
        let charge = match &mut self.charge {
            Some(charge) => charge,
            none => none.insert(self.account.open().map_err(Fault::TooMuch)?),
        };
        charge.add(data.len()).map_err(Fault::TooMuch)?;
        self.ahead = data;
        Ok(())
    }

    /// The next message, if it is complete. A message within one frame is not copied.
    fn take(&mut self) -> Result<Option<Bytes>, Fault> {
        if self.begun.is_empty()
            && let Some(length) = length(&self.ahead)?
            && length <= self.ahead.len()
        {
            return Ok(Some(self.ahead.split_to(length)));
        }
        // First the prefix, then the announced length.
        for _ in 0..2 {
            let announced = length(&self.begun)?;
            let missing = announced.unwrap_or(PREFIX) - self.begun.len();
            let part = self.ahead.split_to(missing.min(self.ahead.len()));
            self.begun.extend_from_slice(&part);
            if part.len() < missing {
                break;
            }
            if announced.is_some() {
                return Ok(Some(mem::take(&mut self.begun).into()));
            }
        }
        Ok(None)
    }
}

/// The length of the message at the beginning of `bytes`, its prefix included.
fn length(bytes: &[u8]) -> Result<Option<usize>, Fault> {
    let Some([flag, length @ ..]) = bytes.first_chunk::<PREFIX>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    match flag {
        0 if length > MAX_REQUEST => Err(Fault::TooLarge(length)),
        0 => Ok(Some(PREFIX + length)),
        // Compressed, or an invalid flag: tonic rejects it by the prefix alone.
        _ => Ok(Some(PREFIX)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use hyper::body::Frame;

    use super::*;
    use crate::model::identity::Identity;
    use crate::serve::budget::Budget;

    /// Frames, then the end of the body or nothing.
    struct Script {
        frames: VecDeque<Bytes>,
        ends: bool,
    }

    impl Body for Script {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.frames.pop_front() {
                Some(frame) => Poll::Ready(Some(Ok(Frame::data(frame)))),
                None if self.ends => Poll::Ready(None),
                None => Poll::Pending,
            }
        }

        fn is_end_stream(&self) -> bool {
            self.ends && self.frames.is_empty()
        }
    }

    fn account() -> Account {
        Budget::new(&crate::quota::Quotas::default()).account(Identity::new("alice").unwrap())
    }

    /// A body with these bytes, in frames of `size`.
    fn messages(bytes: &[u8], size: usize, ends: bool) -> Messages<Script> {
        let frames = bytes.chunks(size).map(Bytes::copy_from_slice).collect();
        Messages::new(Script { frames, ends }, account())
    }

    fn message(data: &[u8]) -> Vec<u8> {
        [&[0], &(data.len() as u32).to_be_bytes()[..], data].concat()
    }

    fn next(messages: &mut Messages<Script>) -> Poll<Result<Option<Bytes>, Fault>> {
        messages.poll_next(&mut Context::from_waker(std::task::Waker::noop()))
    }

    #[test]
    fn messages_are_whole_however_they_are_cut() {
        let sent = [message(b"one"), message(b""), message(&[7; 1000]), message(b"four")];
        for size in [1, 2, 3, 5, 6, 7, 8, 100, 10_000] {
            let mut messages = messages(&sent.concat(), size, true);
            for expected in &sent {
                let Poll::Ready(Ok(Some(came))) = next(&mut messages) else { panic!("{size}") };
                assert_eq!(came, expected, "{size}");
                messages.release();
                assert_eq!(messages.charge.as_ref().unwrap().bytes(), messages.kept());
            }
            assert!(matches!(next(&mut messages), Poll::Ready(Ok(None))), "{size}");
        }
    }

    #[tokio::test]
    async fn a_call_that_takes_one_message_takes_no_second() {
        let twice = [message(b"one"), message(b"two")].concat();
        for size in [1, 8, 16] {
            assert!(matches!(messages(&twice, size, true).only().await, Err(Fault::Second)));
        }
        assert_eq!(messages(&message(b"one"), 3, true).only().await.unwrap(), message(b"one"));
        assert!(messages(b"", 1, true).only().await.unwrap().is_empty());
        // Truncated and compressed messages reach tonic unchanged.
        assert_eq!(messages(&message(b"one")[..7], 2, true).only().await.unwrap().len(), 7);
        assert_eq!(messages(&[1, 0, 0, 0, 9, 1], 6, false).only().await.unwrap().len(), 5);
    }

    #[test]
    fn what_is_too_large_is_refused_by_its_announcement() {
        let mut messages = messages(&[0, 0, 0x20, 0, 1], 5, false);
        assert!(matches!(next(&mut messages), Poll::Ready(Err(Fault::TooLarge(0x20_0001)))));
    }

    #[test]
    fn only_what_has_come_is_charged_and_no_more_than_there_is() {
        let mut announced = messages(&[0, 0, 0x20, 0, 0], 5, false);
        let mut context = Context::from_waker(std::task::Waker::noop());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        assert!(announced.poll_next(&mut context).is_pending());
        assert_eq!(announced.charge.as_ref().unwrap().bytes(), 5);
        let mut small = messages(&message(&[0; 1 << 20]), 1 << 16, true);
        let taken = small.account.requests_left(100_000);
        assert!(matches!(next(&mut small), Poll::Ready(Err(Fault::TooMuch(_)))));
        drop(taken);
    }

    #[tokio::test]
    async fn a_message_that_was_begun_has_a_deadline_and_an_idle_stream_has_none() {
        let mut idle = messages(&message(b"one"), 8, false);
        assert!(matches!(next(&mut idle), Poll::Ready(Ok(Some(_)))));
        assert!(next(&mut idle).is_pending());
        assert!(idle.deadline.is_none(), "it waits as long as its client");
        let mut begun = messages(&message(b"one")[..6], 6, false);
        assert!(next(&mut begun).is_pending());
        let deadline = begun.deadline.as_mut().unwrap();
        deadline.as_mut().reset(tokio::time::Instant::now());
        deadline.await;
        assert!(matches!(next(&mut begun), Poll::Ready(Err(Fault::TooSlow))));
    }
}
