//! A session with a shim: connect, verify the peer, exchange messages. When to connect is decided in
//! `connection`; nothing here retries.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use job_launch::errors::SpawnError;
use job_shim::frame;
use job_shim::wire::{BrokerHello, Exited, FromShim, ShimHello, ToShim};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::jobs::channel::Channel;
use crate::jobs::job::Job;
use crate::jobs::monitor::validate;
use crate::jobs::process::ShimProcess;
use crate::jobs::recovery_rules::as_broker_kill;
use crate::jobs::shared::Shared;
use crate::jobs::shared::reach::Place;
use crate::launch::failure::failure;
use crate::metrics::METRICS;
use crate::metrics::labels::CgroupOperation;
use crate::model::state::{Contact, Event, Snapshot, State};
use job_launch::host;

/// How long a shim has to answer before it counts as silent.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The connection to a verified shim.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) channel: Arc<Channel>,
    pub(crate) reader: frame::Reader<FromShim>,
}

/// Why a session has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionEnd {
    /// The shim closed the connection or sent an invalid message.
    ShimClosed,
    /// The descriptor was lent, and another job needs it.
    Yielded,
}

/// Receives messages until one side closes the connection.
pub(crate) async fn run(
    shared: &Shared,
    job: &Job,
    Connection { channel, reader }: Connection,
    place: &mut Place,
) -> SessionEnd {
    job.set_channel(Some(Arc::clone(&channel)));
    job.set_contact(Contact::Good);
    send_pending(job);
    let end = tokio::select! {
        () = listen(shared, job, &channel, reader) => SessionEnd::ShimClosed,
        () = shared.reach.wait_to_yield(job, place) => SessionEnd::Yielded,
    };
    if end == SessionEnd::Yielded {
        job.set_contact(Contact::Recovering);
    }
    job.set_channel(None);
    end
}

/// Connects to the shim of an earlier broker and replaces that broker's connection. [`ANSWER_TIMEOUT`]
/// starts now.
pub(crate) async fn connect(
    shared: &Shared,
    job: &Job,
    shim: ShimProcess,
) -> io::Result<Connection> {
    let word = ToShim::Hello(BrokerHello { nonce: shim.nonce, epoch: shared.state.epoch() });
    let socket = shared.launcher.socket(job.id());
    let answered = timeout(ANSWER_TIMEOUT, handshake(&socket, shim, &word)).await;
    let Handshake { channel, reader, hello } = answered.unwrap_or_else(|late| Err(late.into()))?;
    tracing::debug!(job = %job.id(), version = reader.version(), "connected to the shim");
    apply_hello(shared, job, &hello);
    Ok(Connection { channel, reader })
}

/// A shim that has answered.
pub(crate) struct Handshake {
    pub(crate) channel: Arc<Channel>,
    pub(crate) reader: frame::Reader<FromShim>,
    pub(crate) hello: ShimHello,
}

/// Connects to a shim, verifies its pid and nonce, sends `word` and receives HELLO.
///
/// # Errors
/// `InvalidData` for a shim that this program does not understand, `UnexpectedEof` for one that does
/// not understand this program; else as connect(2) and read(2).
pub(crate) async fn handshake(
    socket: &Path,
    shim: ShimProcess,
    word: &ToShim,
) -> io::Result<Handshake> {
    let stream = UnixStream::connect(socket).await?;
    let peer = stream.peer_cred()?;
    if peer.pid() != i32::try_from(shim.pid).ok() {
        return Err(io::Error::other(format!(
            "another process ({:?}) listens on the shim's socket",
            peer.pid()
        )));
    }
    let channel = Channel::new(stream);
    channel.send(word).map_err(io::Error::other)?;
    let foreign = |fault: String| io::Error::new(io::ErrorKind::InvalidData, fault);
    let mut reader = frame::Reader::default();
    loop {
        match reader.next_message().map_err(|e| foreign(e.to_string()))? {
            Some(FromShim::Hello(hello)) if hello.nonce == shim.nonce => {
                validate::check_hello(&hello).map_err(foreign)?;
                return Ok(Handshake { channel, reader, hello: *hello });
            }
            Some(other) => return Err(foreign(format!("the shim answers {other:?}"))),
            None if receive(&channel, &mut reader).await? == 0 => {
                let fault = "the shim closes the connection without an answer";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, fault));
            }
            None => {}
        }
    }
}

/// Receives until the connection closes, or an invalid message closes it. The job keeps running.
async fn listen(
    shared: &Shared,
    job: &Job,
    channel: &Channel,
    mut reader: frame::Reader<FromShim>,
) {
    loop {
        loop {
            match reader.next_message() {
                Ok(Some(message)) => {
                    if let Err(fault) = validate::check(&message) {
                        tracing::error!(job = %job.id(), "invalid message from the shim, the broker closes the connection: {fault}");
                        return;
                    }
                    take(shared, job, message);
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(job = %job.id(), "malformed frame from the shim, the broker closes the connection: {error}");
                    return;
                }
            }
        }
        match receive(channel, &mut reader).await {
            Ok(0) => return,
            Ok(_) => {}
            Err(e) => {
                tracing::warn!(job = %job.id(), "the connection to the shim failed: {e}");
                return;
            }
        }
    }
}

/// Reads available bytes into the reader; 0 is the end of the stream.
async fn receive(channel: &Channel, reader: &mut frame::Reader<FromShim>) -> io::Result<usize> {
    loop {
        tokio::select! {
            ready = channel.stream.readable() => {
                ready?;
                match read(channel, reader) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    done => return done,
                }
            }
            () = channel.backlog.notified() => {
                while !channel.flush()? {
                    channel.stream.writable().await?;
                    // flush() calls send(2) itself: clear tokio's readiness.
                    let _ = channel.stream.try_io(Interest::WRITABLE, || -> io::Result<()> {
                        Err(io::ErrorKind::WouldBlock.into())
                    });
                }
            }
        }
    }
}

/// Apart from `receive`, so that the buffer is not part of each job's future.
fn read(channel: &Channel, reader: &mut frame::Reader<FromShim>) -> io::Result<usize> {
    let mut bytes = [0; 512];
    let read = channel.stream.try_read(&mut bytes)?;
    reader.push(&bytes[..read]);
    Ok(read)
}

fn take(shared: &Shared, job: &Job, message: FromShim) {
    match message {
        FromShim::Hello(hello) => apply_hello(shared, job, &hello),
        FromShim::Started(started) => job.apply(Event::Started(started)),
        FromShim::Progress(progress) => job.set_progress(progress),
        FromShim::InputAck(ack) => job.set_input(ack),
        FromShim::Exited(exited) => {
            let stood_still = job.snapshot().state == State::Paused;
            main_ended(job, exited);
            if stood_still {
                thaw(shared, job);
            }
        }
        FromShim::Ended(ended) if job.snapshot().exited.is_none() => {
            job.set_progress(ended.progress);
        }
        FromShim::Ended(ended) => {
            job.set_progress(ended.progress);
            let incomplete = ended.is_incomplete();
            job.apply(Event::Ended { time_ns: host::now_ns(), incomplete });
        }
        FromShim::Stopping => {
            job.apply(Event::StopRequested);
            thaw(shared, job);
        }
        FromShim::Limits(taken) => {
            job.modify_effective_limits(|limits| limits.acknowledged = Some(taken))
        }
        FromShim::Failed(failed) => {
            let known = job.snapshot();
            if known.started.is_none() {
                // An adopted job counts as running until its shim reports; this one never ran.
                job.restore(Snapshot { contact: known.contact, ..Snapshot::starting() });
            }
            job.apply(Event::StartFailed(failure(&SpawnError::Shim(failed).into(), job.record())));
        }
    }
}

/// Sends what the shim missed without a connection: a pending change of limits, a stop request. The next
/// session repeats what cannot be sent now.
fn send_pending(job: &Job) {
    let limits = job.effective_limits();
    if limits.acknowledged.is_some_and(|known| known != limits.shim_limits()) {
        let _ = job.send(&ToShim::Limits(limits.shim_limits()));
    }
    job.send_stop();
}

/// Applies the exit, unless it is the broker's own SIGKILL: the finalizer attributes that to its stop.
fn main_ended(job: &Job, exited: Exited) {
    let stop = job.stop_request().map(|stop| stop.origin(true));
    if as_broker_kill(stop.as_ref(), &exited).is_none() {
        job.apply(Event::Exited(exited));
    }
}

/// Applies the state in a HELLO: all that happened while no broker was connected.
fn apply_hello(shared: &Shared, job: &Job, hello: &ShimHello) {
    job.set_progress(hello.progress);
    job.set_input(hello.input);
    job.modify_effective_limits(|limits| limits.acknowledged = Some(hello.limits));
    if let Some(started) = hello.started {
        job.apply(Event::Started(started));
    }
    if let Some(exited) = &hello.exited {
        main_ended(job, exited.clone());
    } else if hello.stopping {
        job.apply(Event::StopRequested);
    }
    if hello.stopping || hello.exited.is_some() {
        thaw(shared, job);
    }
}

/// Thaws a stopping job: the shim thawed it once, but a concurrent pause may have frozen it again.
fn thaw(shared: &Shared, job: &Job) {
    let (id, cgroup) = (job.id(), shared.launcher.hierarchy().job(job.id()));
    tokio::task::spawn_blocking(move || match cgroup.is_frozen() {
        Ok(false) => {} // also a removed cgroup
        // An error, too: to thaw a running cgroup is harmless.
        Ok(true) | Err(_) => match cgroup.freeze(false) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                METRICS.cgroup_errors.add(CgroupOperation::Freeze, 1);
                tracing::error!(job = %id, "the stopping job cannot be thawed: {e}");
            }
            _ => tracing::info!(job = %id, "the stopping job was frozen and is thawed"),
        },
    });
}
