//! `run -i`: standard input to the job, at the job's pace, no byte lost or doubled over a loss of
//! the connection.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::time::Instant;

use job_api::v1::{WriteInputRequest, WriteInputResponse};
use prost::bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Response, Status, Streaming};

use crate::client::connection::{Broker, Outage};
use crate::failure::{Failure, Result, call_cause, is_transient};

/// Read at once and sent as one message, which has to arrive within 10 s.
const PIECE: usize = 128 << 10;

/// Read and not yet acknowledged, at most: what is kept to be sent again. As much as the broker's
/// largest window: 80 MB/s over a round trip of 100 ms.
const WINDOW: u64 = 8 << 20;

/// The same in pieces: those that a terminal gives are small.
const WINDOW_PIECES: usize = 1024;

/// Passes standard input on beside the caller, until it ends or the job takes no more. A `fresh` job
/// has had no input yet: nothing has to be asked before the first byte is sent.
pub(crate) fn forward(broker: Broker, id: String, fresh: bool) -> Result<()> {
    let pieces = read_on_thread()?;
    tokio::spawn(async move {
        let kept = Unacknowledged::default();
        let mut input = Input { broker, id, pieces, fresh, kept, outage: None };
        if let Err(failure) = input.run().await {
            failure.print();
        }
    });
    Ok(())
}

/// Reads in a thread of its own, one piece ahead: a pipe's or terminal's read cannot be given up.
fn read_on_thread() -> Result<mpsc::Receiver<Bytes>> {
    let stdin = io::stdin().as_fd().try_clone_to_owned().map(std::fs::File::from);
    let mut stdin =
        stdin.map_err(|error| Failure::usage(format!("cannot read standard input: {error}")))?;
    let (sender, receiver) = mpsc::channel(1);
    let read = move || {
        let mut buffer = vec![0; PIECE];
        loop {
            match stdin.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => {
                    let piece = Bytes::copy_from_slice(&buffer[..length]);
                    if sender.blocking_send(piece).is_err() {
                        return;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    Failure::usage(format!("cannot read standard input: {error}")).print();
                    return;
                }
            }
        }
    };
    std::thread::Builder::new()
        .name("stdin".into())
        .spawn(read)
        .map_err(|error| Failure::usage(format!("cannot read standard input: {error}")))?;
    Ok(receiver)
}

struct Input {
    broker: Broker,
    id: String,
    pieces: mpsc::Receiver<Bytes>,
    /// Until the first session: nobody has sent anything.
    fresh: bool,
    kept: Unacknowledged,
    outage: Option<Outage>,
}

/// One opening of the call.
struct Session {
    /// `None` behind the end of input: our half of the stream is closed.
    requests: Option<mpsc::UnboundedSender<WriteInputRequest>>,
    answers: Answers,
}

/// The other half, which opens with its first message.
enum Answers {
    Opening(Pin<Box<dyn Future<Output = Opened> + Send>>),
    Open(Box<Streaming<WriteInputResponse>>),
}

type Opened = std::result::Result<Response<Streaming<WriteInputResponse>>, Status>;

impl Answers {
    /// The next one; a call that is given up loses nothing.
    async fn message(&mut self) -> std::result::Result<Option<WriteInputResponse>, Status> {
        loop {
            match self {
                Answers::Opening(call) => {
                    *self = Answers::Open(Box::new(call.as_mut().await?.into_inner()));
                }
                Answers::Open(answers) => return answers.message().await,
            }
        }
    }
}

impl Session {
    /// A session that is gone takes it too; its answers tell.
    fn send(&mut self, request: WriteInputRequest) {
        let is_last = request.end;
        if let Some(requests) = &self.requests {
            let _ = requests.send(request);
        }
        if is_last {
            self.requests = None;
        }
    }
}

/// Why a session ended.
enum SessionEnd {
    /// All was taken, or no more is wanted.
    Done,
    Cut(Status),
}

impl Input {
    async fn run(&mut self) -> Result<()> {
        loop {
            let opened = Instant::now();
            let session = self.open();
            let over = self.feed(session).await?;
            let status = match over {
                SessionEnd::Done => return Ok(()),
                SessionEnd::Cut(status) => status,
            };
            match status.code() {
                // The job has ended, or is gone: its output tells the rest.
                Code::FailedPrecondition | Code::NotFound => return Ok(()),
                _ if !is_transient(&status) => {
                    return Err(self
                        .broker
                        .failure("cannot pass standard input on", &status)
                        .await);
                }
                _ => {
                    let (lived, cause) = (opened.elapsed(), call_cause(&status));
                    let back = self.broker.come_back(&mut self.outage, lived, &cause, "").await;
                    // The output's side says that it is lost for good.
                    if back.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Opens the call with no data: the first answer says where to go on.
    fn open(&self) -> Session {
        let (requests, receiver) = mpsc::unbounded_channel();
        let first = WriteInputRequest { id: self.id.clone(), ..Default::default() };
        let _ = requests.send(first);
        let mut client = self.broker.client.clone();
        let call = async move { client.write_input(UnboundedReceiverStream::new(receiver)).await };
        Session { requests: Some(requests), answers: Answers::Opening(Box::pin(call)) }
    }

    async fn feed(&mut self, mut session: Session) -> Result<SessionEnd> {
        if !std::mem::take(&mut self.fresh) {
            let accepted = match session.answers.message().await {
                Ok(Some(answer)) if answer.closed => return Ok(SessionEnd::Done),
                Ok(Some(answer)) => answer.accepted,
                Ok(None) => {
                    return Ok(SessionEnd::Cut(Status::unavailable("the stream ended early")));
                }
                Err(status) => return Ok(SessionEnd::Cut(status)),
            };
            self.kept.acknowledge(accepted)?;
        }
        for request in self.kept.unacknowledged() {
            session.send(request);
        }
        loop {
            tokio::select! {
                answer = session.answers.message() => match answer {
                    Ok(Some(answer)) if answer.closed => return Ok(SessionEnd::Done),
                    Ok(Some(answer)) => {
                        self.outage = None;
                        self.kept.acknowledge(answer.accepted)?;
                    }
                    Ok(None) if self.kept.is_done() => return Ok(SessionEnd::Done),
                    Ok(None) => {
                        return Ok(SessionEnd::Cut(Status::unavailable("the stream ended early")));
                    }
                    Err(status) => return Ok(SessionEnd::Cut(status)),
                },
                piece = self.pieces.recv(), if self.kept.has_room() => {
                    session.send(self.kept.keep(piece));
                }
            }
        }
    }
}

/// What was read and is not known to have reached the job.
#[derive(Default)]
struct Unacknowledged {
    pieces: VecDeque<Bytes>,
    /// Of the first byte kept: all before have reached the job's pipe.
    accepted: u64,
    /// Behind the last byte kept.
    next: u64,
    ended: bool,
}

impl Unacknowledged {
    fn has_room(&self) -> bool {
        let room = self.next - self.accepted + PIECE as u64 <= WINDOW;
        room && self.pieces.len() < WINDOW_PIECES && !self.ended
    }

    fn is_done(&self) -> bool {
        self.ended && self.pieces.is_empty()
    }

    /// The message for what was read; `None` is the end of input.
    fn keep(&mut self, piece: Option<Bytes>) -> WriteInputRequest {
        let offset = self.next;
        match piece {
            Some(data) => {
                self.next += data.len() as u64;
                self.pieces.push_back(data.clone());
                WriteInputRequest { offset, data, ..Default::default() }
            }
            None => {
                self.ended = true;
                WriteInputRequest { offset, end: true, ..Default::default() }
            }
        }
    }

    /// Drops what has reached the job.
    fn acknowledge(&mut self, accepted: u64) -> Result<()> {
        if accepted > self.next {
            return Err(Failure::refused(format!(
                "cannot pass standard input on: the broker has {accepted} bytes of it, we sent {}",
                self.next
            ))
            .hint("somebody else may be writing to this job's standard input"));
        }
        while self.accepted < accepted
            && let Some(first) = self.pieces.front_mut()
        {
            let reached = usize::try_from(accepted - self.accepted).unwrap_or(usize::MAX);
            if reached >= first.len() {
                self.accepted += first.len() as u64;
                self.pieces.pop_front();
            } else {
                self.accepted = accepted;
                *first = first.slice(reached..);
            }
        }
        Ok(())
    }

    /// The messages for all that is kept, on a new connection.
    fn unacknowledged(&self) -> Vec<WriteInputRequest> {
        let mut offset = self.accepted;
        let mut requests = Vec::with_capacity(self.pieces.len() + 1);
        for data in &self.pieces {
            requests.push(WriteInputRequest { offset, data: data.clone(), ..Default::default() });
            offset += data.len() as u64;
        }
        if self.ended {
            requests.push(WriteInputRequest { offset, end: true, ..Default::default() });
        }
        requests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(requests: &[WriteInputRequest]) -> Vec<(u64, &[u8], bool)> {
        requests.iter().map(|r| (r.offset, &*r.data, r.end)).collect()
    }

    #[test]
    fn after_a_cut_exactly_what_did_not_arrive_is_sent_again() {
        let mut kept = Unacknowledged::default();
        for data in ["abc", "def", "g"] {
            kept.keep(Some(Bytes::from_static(data.as_bytes())));
        }
        kept.keep(None);
        kept.acknowledge(4).expect("was sent");
        assert_eq!(
            sent(&kept.unacknowledged()),
            [(4, &b"ef"[..], false), (6, &b"g"[..], false), (7, &b""[..], true)]
        );
        kept.acknowledge(4).expect("an acknowledgement may be repeated");
        kept.acknowledge(7).expect("was sent");
        assert_eq!(sent(&kept.unacknowledged()), [(7, &b""[..], true)]);
        assert!(kept.is_done());
    }

    #[test]
    fn reading_stops_at_a_window_that_is_not_acknowledged() {
        let mut kept = Unacknowledged::default();
        let piece = Bytes::from(vec![0; PIECE]);
        while kept.has_room() {
            kept.keep(Some(piece.clone()));
        }
        assert!(kept.next <= WINDOW && kept.next + PIECE as u64 > WINDOW);
        kept.acknowledge(PIECE as u64).expect("was sent");
        assert!(kept.has_room());
    }

    #[test]
    fn small_pieces_are_bounded_by_their_number() {
        let mut kept = Unacknowledged::default();
        while kept.has_room() {
            kept.keep(Some(Bytes::from_static(b"x")));
        }
        assert_eq!(kept.pieces.len(), WINDOW_PIECES);
    }

    #[test]
    fn bytes_that_were_never_sent_cannot_have_arrived() {
        assert!(Unacknowledged::default().acknowledge(1).is_err());
    }
}
