//! The two streaming calls, output and input. A stream must end when the broker shuts down, and must never end a job.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{self, Stream, StreamExt};
use job_api::v1;
use job_api::v1::stream_output_response::Kind;
use job_shim::wire::InputAck;
use tokio::sync::watch;
use tonic::{Status, Streaming};

use crate::auth::{Authorized, Input};
use crate::grpc::{convert, status, time};
use crate::jobs::job::Job;
use crate::jobs::output::{OutputReader, Piece};
use crate::jobs::shared::calls::Call;
use crate::jobs::supervisor::Supervisor;
use crate::metrics::METRICS;
use crate::metrics::labels::Direction;
use crate::metrics::value::Entered;

/// Chunks, then the trailer.
pub(super) type Output =
    Pin<Box<dyn Stream<Item = Result<v1::StreamOutputResponse, Status>> + Send>>;
/// Acknowledgements.
pub(super) type Acks = Pin<Box<dyn Stream<Item = Result<v1::WriteInputResponse, Status>> + Send>>;

/// Answers when the caller may not go on.
pub(super) type Revoked = Pin<Box<dyn Future<Output = Status> + Send>>;

struct OutputState {
    job: Arc<Job>,
    reader: OutputReader,
    revoked: Revoked,
    closing: watch::Receiver<bool>,
    _open: Entered,
}

/// The reader's pieces, then the trailer. When the broker shuts down, the stream ends as UNAVAILABLE without a
/// trailer; the client resumes at its offsets.
pub(super) fn output(
    job: Arc<Job>,
    reader: OutputReader,
    revoked: Revoked,
    closing: watch::Receiver<bool>,
) -> Output {
    let start = Some(OutputState {
        job,
        reader,
        revoked,
        closing,
        _open: METRICS.open_streams(Direction::Out).enter(),
    });
    Box::pin(stream::unfold(start, |state| async move {
        let mut state = state?;
        let next = tokio::select! {
            biased;
            status = &mut state.revoked => Err(status),
            _ = state.closing.wait_for(|closing| *closing) => Err(status::shutting_down()),
            piece = state.reader.next() => piece.map_err(status::output),
        };
        match next {
            Ok(Some(piece)) => Some((Ok(chunk(piece)), Some(state))),
            Ok(None) => Some((Ok(trailer(&state.job)), None)),
            Err(status) => Some((Err(status), None)),
        }
    }))
}

fn chunk(piece: Piece) -> v1::StreamOutputResponse {
    let compression = match piece.is_deflated {
        true => v1::Compression::Deflate,
        false => v1::Compression::Unspecified,
    };
    METRICS.stream_bytes.add(Direction::Out, piece.data.len() as u64);
    let chunk = v1::OutputChunk {
        stream: convert::stream(piece.stream).into(),
        offset: piece.offset,
        data: piece.data.into(),
        time: Some(time::timestamp(piece.time_ns)),
        compression: compression.into(),
    };
    v1::StreamOutputResponse { kind: Some(Kind::Chunk(chunk)) }
}

fn trailer(job: &Job) -> v1::StreamOutputResponse {
    let trailer = v1::OutputTrailer { job: Some(convert::job(job)) };
    v1::StreamOutputResponse { kind: Some(Kind::Trailer(trailer)) }
}

/// The first message of RunJob.
pub(super) fn started(job: &Job) -> v1::StreamOutputResponse {
    v1::StreamOutputResponse { kind: Some(Kind::Started(convert::job(job))) }
}

/// A message, then the stream or what was wrong with it.
pub(super) fn behind(first: v1::StreamOutputResponse, rest: Result<Output, Status>) -> Output {
    let rest = rest.unwrap_or_else(|status| Box::pin(stream::iter([Err(status)])));
    Box::pin(stream::iter([Ok(first)]).chain(rest))
}

struct InputState {
    supervisor: Supervisor,
    job: Authorized<Input, Arc<Job>>,
    _call: Call,
    first: Option<v1::WriteInputRequest>,
    pieces: Streaming<v1::WriteInputRequest>,
    _open: Entered,
}

/// Acknowledges each message after its bytes are in the job's pipe.
pub(super) fn input(
    supervisor: Supervisor,
    (job, call): (Authorized<Input, Arc<Job>>, Call),
    first: v1::WriteInputRequest,
    pieces: Streaming<v1::WriteInputRequest>,
    ends: (Revoked, watch::Receiver<bool>),
) -> Acks {
    let open = METRICS.open_streams(Direction::In).enter();
    let (first, _call, _open) = (Some(first), call, open);
    let state = InputState { supervisor, job, _call, first, pieces, _open };
    Box::pin(stream::unfold(Some((state, ends)), |all| async move {
        let (mut state, (mut revoked, mut closing)) = all?;
        let next = tokio::select! {
            biased;
            status = &mut revoked => Err(status),
            _ = closing.wait_for(|closing| *closing) => Err(status::shutting_down()),
            next = state.next() => next,
        };
        match next {
            Ok(Some(ack)) => {
                let message = v1::WriteInputResponse { accepted: ack.accepted, closed: ack.closed };
                Some((Ok(message), Some((state, (revoked, closing)))))
            }
            Ok(None) => None,
            Err(status) => Some((Err(status), None)),
        }
    }))
}

impl InputState {
    async fn next(&mut self) -> Result<Option<InputAck>, Status> {
        let message = match self.first.take() {
            Some(first) => first,
            None => match self.pieces.message().await.map_err(|e| status::stream_error(&e))? {
                Some(message) => message,
                None => return Ok(None),
            },
        };
        let is_query = message.data.is_empty() && !message.end;
        let ack = if is_query {
            self.supervisor.accepted_input(&self.job).await
        } else {
            METRICS.stream_bytes.add(Direction::In, message.data.len() as u64);
            let (offset, end) = (message.offset, message.end);
            self.supervisor.write_input(&self.job, offset, &message.data, end).await
        };
        ack.map(Some).map_err(status::input)
    }
}
