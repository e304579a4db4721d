//! Writes to the standard input of a job: bytes by offset, acknowledged once they are in the job's pipe.
//! Buffers a few pieces and no more: a job that does not read blocks its writer.

use std::sync::Arc;

use job_shim::wire::{self, INPUT_PIECE, InputAck, ToShim};

use crate::auth::{Authorized, Input};
use crate::jobs::channel::Unreachable;
use crate::jobs::job::Job;

/// Why input was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// Started without `stdin`.
    #[error("the job was started without standard input")]
    NoStdin,
    /// Bytes between what is accepted and this are missing.
    #[error("input offset {offset} leaves a gap: {accepted} bytes have been accepted")]
    Gap {
        /// As sent.
        offset: u64,
        /// Bytes accepted so far.
        accepted: u64,
    },
    /// Try again in a moment.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
}

/// How many bytes of standard input the job has accepted, and whether the input is closed.
///
/// # Errors
/// `NoStdin`.
pub(crate) async fn accepted(job: &Authorized<Input, Arc<Job>>) -> Result<InputAck, InputError> {
    job.subject().wait_for_contact().await;
    known(job.subject())
}

fn known(job: &Job) -> Result<InputAck, InputError> {
    if !job.record().spec.stdin {
        return Err(InputError::NoStdin);
    }
    let known = *job.watch_input().borrow();
    Ok(InputAck { closed: known.closed || job.snapshot().state.is_over(), ..known })
}

/// Writes `data` to the job's pipe and returns once all of it is there, or the pipe has no reader. Waits
/// while the pipe is full: that is the backpressure.
///
/// # Errors
/// [`InputError`]; what was accepted before stays accepted.
pub(crate) async fn write(
    job: &Authorized<Input, Arc<Job>>,
    offset: u64,
    data: &[u8],
    end: bool,
) -> Result<InputAck, InputError> {
    let job = job.subject();
    let _turn = job.input_turn.lock().await;
    job.wait_for_contact().await; // until then the accepted offset is unknown
    let known = known(job)?;
    if offset > known.accepted {
        return Err(InputError::Gap { offset, accepted: known.accepted });
    }
    // Bytes that an earlier call has written.
    let doubled = usize::try_from(known.accepted - offset).unwrap_or(usize::MAX);
    let rest = data.get(doubled..).unwrap_or_default();
    if known.closed || (rest.is_empty() && !end) {
        return Ok(known);
    }
    pass(job, Pieces { offset: known.accepted, rest, end }).await
}

/// Sent and not acknowledged, at most: as much as waits in the channel to a shim, and in the shim for its job. Less than
/// the shim takes.
const AHEAD: u64 = 4 * INPUT_PIECE as u64;

/// What the shim has not been sent yet.
struct Pieces<'a> {
    offset: u64,
    rest: &'a [u8],
    /// The end of input is behind it.
    end: bool,
}

impl Pieces<'_> {
    /// Sends as many as may be ahead of what the shim has acknowledged: it writes one while the next is under way.
    fn send(&mut self, job: &Job, accepted: u64) -> Result<(), Unreachable> {
        while !self.rest.is_empty() || self.end {
            let (piece, later) = self.rest.split_at(self.rest.len().min(INPUT_PIECE));
            let next = self.offset + piece.len() as u64;
            if next.saturating_sub(accepted) > AHEAD {
                break;
            }
            let (offset, end) = (self.offset, self.end && later.is_empty());
            job.send(&ToShim::Input(wire::Input { offset, data: piece.to_vec(), end }))?;
            (self.offset, self.rest) = (next, later);
            self.end &= !end;
        }
        Ok(())
    }
}

async fn pass(job: &Job, mut pieces: Pieces<'_>) -> Result<InputAck, InputError> {
    let (mut acks, mut snapshot) = (job.watch_input(), job.watch_snapshot());
    let (goal, end) = (pieces.offset + pieces.rest.len() as u64, pieces.end);
    loop {
        let ack = *acks.borrow_and_update();
        let known = snapshot.borrow_and_update().clone();
        if known.state.is_over() {
            return Ok(InputAck { closed: true, ..ack });
        }
        if ack.closed || (ack.accepted >= goal && !end) {
            return Ok(ack);
        }
        let sent = pieces.send(job, ack.accepted);
        if sent.is_err() || !job.is_reachable() {
            if !job.has_ended_late().await {
                return Err(Unreachable.into());
            }
            continue;
        }
        tokio::select! {
            _ = acks.changed() => {}
            _ = snapshot.changed() => {}
        }
    }
}
