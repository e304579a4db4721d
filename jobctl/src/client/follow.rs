//! A job's output from the broker, continued at the exact byte over every loss of the connection.

use std::time::Instant;

use job_api::deflate::inflated;
use job_api::v1::stream_output_response::Kind;
use job_api::v1::{
    Compression, Job, OutputChunk, OutputStream, StreamOutputRequest, StreamOutputResponse,
};
use prost_types::Timestamp;
use tonic::{Code, Status, Streaming};

use crate::client::connection::{Broker, Outage};
use crate::failure::{Failure, Result, call_cause, is_transient};

pub(crate) enum Event {
    Chunk(OutputChunk),
    /// The stream is whole; the job as the trailer shows it.
    End(Box<Job>),
}

pub(crate) struct Follower {
    broker: Broker,
    request: StreamOutputRequest,
    position: Position,
    stream: Option<Streaming<StreamOutputResponse>>,
    opened: Instant,
    outage: Option<Outage>,
}

impl Follower {
    pub(crate) fn new(broker: Broker, request: StreamOutputRequest) -> Self {
        let position = Position::of(&request);
        Follower { broker, request, position, stream: None, opened: Instant::now(), outage: None }
    }

    /// The same with a stream that is open: what comes is the answer to `request`.
    pub(crate) fn of(
        broker: Broker,
        request: StreamOutputRequest,
        stream: Option<Streaming<StreamOutputResponse>>,
    ) -> Self {
        Follower { stream, ..Self::new(broker, request) }
    }

    /// The next chunk, without a byte missing or doubled, or the end.
    pub(crate) async fn next(&mut self) -> Result<Event> {
        loop {
            let Some(stream) = &mut self.stream else {
                self.open().await?;
                continue;
            };
            match stream.message().await {
                Ok(Some(message)) => {
                    self.broker.mark_stable();
                    self.outage = None;
                    if let Some(event) = self.received(message)? {
                        return Ok(event);
                    }
                }
                Ok(None) => self.cut("the stream ended without its trailer").await?,
                Err(status) if is_transient(&status) => self.cut(&call_cause(&status)).await?,
                Err(status) => {
                    return Err(self.broker.failure("cannot read the output", &status).await);
                }
            }
        }
    }

    fn received(&mut self, message: StreamOutputResponse) -> Result<Option<Event>> {
        match message.kind {
            Some(Kind::Chunk(chunk)) => {
                Ok(self.position.accept(uncompressed(chunk)?)?.map(Event::Chunk))
            }
            Some(Kind::Trailer(trailer)) => {
                Ok(Some(Event::End(Box::new(trailer.job.unwrap_or_default()))))
            }
            // The second carries no output, and so does a newer broker's word that we do not know.
            Some(Kind::Started(_)) | None => Ok(None),
        }
    }

    async fn open(&mut self) -> Result<()> {
        let request = self.position.continued(&self.request);
        let mut client = self.broker.client.clone();
        self.opened = Instant::now();
        match client.stream_output(request).await {
            Ok(answer) => {
                self.stream = Some(answer.into_inner());
                Ok(())
            }
            Err(status) if self.may_pass(&status) => self.cut(&call_cause(&status)).await,
            Err(status) => Err(self.broker.failure("cannot read the output", &status).await),
        }
    }

    /// Whether another try may help. A stream that was cut counts until the broker has noticed, so the
    /// one that continues it may find no place yet.
    fn may_pass(&self, status: &Status) -> bool {
        let continues = self.outage.is_some();
        is_transient(status) || (continues && status.code() == Code::ResourceExhausted)
    }

    /// The stream is gone: answers when it can be opened anew.
    async fn cut(&mut self, cause: &str) -> Result<()> {
        self.stream = None;
        let (lived, on) = (self.opened.elapsed(), self.position.notice());
        let back = self.broker.come_back(&mut self.outage, lived, cause, &on).await;
        back.map_err(|failure| {
            let id = &self.request.id;
            failure.hint(format!("the job does not notice; go on with: jobctl logs -f {id}"))
        })
    }
}

fn uncompressed(mut chunk: OutputChunk) -> Result<OutputChunk> {
    if chunk.compression() == Compression::Deflate {
        let fault = |e| Failure::unreachable(format!("the broker's output is damaged: {e}"));
        chunk.data = inflated(&chunk.data).map_err(fault)?.into();
        chunk.set_compression(Compression::Unspecified);
    }
    Ok(chunk)
}

/// How far each stream has come, `None` before the first byte where only the broker knows where
/// the output begins (tail, since).
struct Position {
    stdout: Option<u64>,
    stderr: Option<u64>,
    first: Option<Timestamp>,
}

impl Position {
    fn of(request: &StreamOutputRequest) -> Self {
        let is_known = request.tail_lines.is_none() && request.since.is_none();
        Position {
            stdout: is_known.then_some(request.stdout_offset),
            stderr: is_known.then_some(request.stderr_offset),
            first: None,
        }
    }

    /// The part of a chunk that is new, `None` if all of it was received before.
    fn accept(&mut self, mut chunk: OutputChunk) -> Result<Option<OutputChunk>> {
        if self.first.is_none() {
            self.first = chunk.time;
        }
        let at = match chunk.stream() {
            OutputStream::Err => &mut self.stderr,
            OutputStream::Out | OutputStream::Unspecified => &mut self.stdout,
        };
        let expected = at.unwrap_or(chunk.offset);
        if chunk.offset > expected {
            return Err(Failure::unreachable(format!(
                "output is missing: the broker went on at byte {} instead of {expected}",
                chunk.offset
            )));
        }
        let known = usize::try_from(expected - chunk.offset).unwrap_or(usize::MAX);
        if known >= chunk.data.len() {
            return Ok(None);
        }
        chunk.data = chunk.data.slice(known..);
        chunk.offset = expected;
        *at = Some(expected + chunk.data.len() as u64);
        Ok(Some(chunk))
    }

    /// The request that goes on from here.
    fn continued(&self, request: &StreamOutputRequest) -> StreamOutputRequest {
        let mut request = request.clone();
        if self.stdout.is_none() && self.stderr.is_none() {
            return request;
        }
        request.stdout_offset = self.stdout.unwrap_or(0);
        request.stderr_offset = self.stderr.unwrap_or(0);
        request.tail_lines = None;
        // Of a stream that was not heard of yet, everything is new that was written after the
        // first thing we were shown.
        let is_half_known = self.stdout.is_none() || self.stderr.is_none();
        request.since = if is_half_known { self.first } else { None };
        request
    }

    fn notice(&self) -> String {
        format!(
            ", going on at stdout byte {}, stderr byte {}",
            self.stdout.unwrap_or(0),
            self.stderr.unwrap_or(0)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(stream: OutputStream, offset: u64, data: &'static [u8]) -> OutputChunk {
        let time = Some(Timestamp { seconds: 7, nanos: 0 });
        OutputChunk { stream: stream.into(), offset, data: data.into(), time, ..Default::default() }
    }

    fn accepted(position: &mut Position, chunk: OutputChunk) -> Option<Vec<u8>> {
        position.accept(chunk).expect("no gap").map(|chunk| chunk.data.to_vec())
    }

    #[test]
    fn what_was_received_before_is_dropped_to_the_byte() {
        let mut position = Position::of(&StreamOutputRequest::default());
        let out = OutputStream::Out;
        assert_eq!(accepted(&mut position, chunk(out, 0, b"abcd")), Some(b"abcd".to_vec()));
        assert_eq!(accepted(&mut position, chunk(out, 2, b"cdef")), Some(b"ef".to_vec()));
        assert_eq!(accepted(&mut position, chunk(out, 1, b"bc")), None);
        assert_eq!(position.continued(&StreamOutputRequest::default()).stdout_offset, 6);
    }

    #[test]
    fn a_gap_is_never_passed_over() {
        let mut position = Position::of(&StreamOutputRequest::default());
        assert!(position.accept(chunk(OutputStream::Err, 1, b"x")).is_err());
    }

    #[test]
    fn the_two_streams_count_for_themselves() {
        let mut position = Position::of(&StreamOutputRequest::default());
        accepted(&mut position, chunk(OutputStream::Out, 0, b"abc"));
        accepted(&mut position, chunk(OutputStream::Err, 0, b"e"));
        let request = position.continued(&StreamOutputRequest::default());
        assert_eq!((request.stdout_offset, request.stderr_offset), (3, 1));
    }

    #[test]
    fn a_tail_is_continued_from_what_was_shown_of_it() {
        let asked = StreamOutputRequest { tail_lines: Some(2), ..Default::default() };
        let mut position = Position::of(&asked);
        assert_eq!(position.continued(&asked).tail_lines, Some(2));
        accepted(&mut position, chunk(OutputStream::Out, 100, b"abc"));
        let request = position.continued(&asked);
        assert_eq!((request.stdout_offset, request.tail_lines), (103, None));
        assert_eq!(request.since, Some(Timestamp { seconds: 7, nanos: 0 }));
        accepted(&mut position, chunk(OutputStream::Err, 50, b"e"));
        let request = position.continued(&asked);
        assert_eq!((request.stderr_offset, request.since), (51, None));
    }
}
