//! The conversation with a shim: connecting to it, knowing it again, listening to it. When that is
//! done, and what is known meanwhile, is decided in `keep`.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use job_shim::frame;
use job_shim::wire::{BrokerHello, Exited, FromShim, ShimHello, ToShim};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::host;
use crate::jobs::channel::Channel;
use crate::jobs::decide::as_broker_kill;
use crate::jobs::job::Job;
use crate::jobs::monitor::validate;
use crate::jobs::process::ShimProcess;
use crate::jobs::shared::Shared;
use crate::jobs::shared::reach::Place;
use crate::launch::LaunchError;
use crate::launch::failure::failure;
use crate::model::state::{Contact, Event, Snapshot, State};

/// How long a shim has to answer, from its turn on, before the job counts as one whose shim is silent.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The connection to a shim that is known to be the one.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) channel: Arc<Channel>,
    pub(crate) reader: frame::Reader<FromShim>,
}

/// Why a conversation is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionEnd {
    /// It has closed the connection, or does not make sense.
    ShimClosed,
    /// The descriptor was lent, and somebody waits for another shim.
    Yielded,
}

/// Listens to a shim until one of the two sides closes.
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

/// Connects to the socket of an earlier broker's shim and takes the place of that one. Its turn begins
/// now: so does the time that it has for an answer.
pub(crate) async fn connect(
    shared: &Shared,
    job: &Job,
    shim: ShimProcess,
) -> io::Result<Connection> {
    let word = ToShim::Hello(BrokerHello { nonce: shim.nonce, epoch: shared.state.epoch() });
    let socket = shared.launcher.socket(job.id());
    let answered = timeout(ANSWER_TIMEOUT, handshake(&socket, shim, &word)).await;
    let Handshake { channel, reader, hello } = answered.unwrap_or_else(|late| Err(late.into()))?;
    tracing::debug!(job = %job.id(), version = reader.version(), "connected to its shim");
    apply_hello(shared, job, &hello);
    Ok(Connection { channel, reader })
}

/// A shim that has answered.
pub(crate) struct Handshake {
    pub(crate) channel: Arc<Channel>,
    pub(crate) reader: frame::Reader<FromShim>,
    pub(crate) hello: ShimHello,
}

/// Connects to a shim, makes sure that it is the one, says `word` and hears its Hello.
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
        return Err(io::Error::other(format!("process {:?} listens in its place", peer.pid())));
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
            Some(other) => return Err(foreign(format!("it answers {other:?}"))),
            None if receive(&channel, &mut reader).await? == 0 => {
                let fault = "it closes the connection without an answer";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, fault));
            }
            None => {}
        }
    }
}

/// Until the connection closes; a surprise closes it. The job itself goes on in either case.
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
                        tracing::error!(job = %job.id(), "its shim is left to itself: {fault}");
                        return;
                    }
                    take(shared, job, message);
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(job = %job.id(), "its shim is left to itself: {error}");
                    return;
                }
            }
        }
        match receive(channel, &mut reader).await {
            Ok(0) => return,
            Ok(_) => {}
            Err(e) => {
                tracing::warn!(job = %job.id(), "connection to its shim: {e}");
                return;
            }
        }
    }
}

/// What has come, into the reader; 0 bytes are the end.
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
                    // flush() sends past tokio's view of the socket: have it look anew.
                    let _ = channel.stream.try_io(Interest::WRITABLE, || -> io::Result<()> {
                        Err(io::ErrorKind::WouldBlock.into())
                    });
                }
            }
        }
    }
}

/// Its buffer is no part of what is kept for each job that runs.
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
                // An adopted job is taken for running until its shim tells; this one never was.
                job.restore(Snapshot { contact: known.contact, ..Snapshot::starting() });
            }
            job.apply(Event::StartFailed(failure(&LaunchError::Shim(failed), job.record())));
        }
    }
}

/// A change that an earlier broker could not finish, a stop that was asked while nobody could tell.
/// What does not get through is told when the shim is reached again.
fn send_pending(job: &Job) {
    let limits = job.effective_limits();
    if limits.acknowledged.is_some_and(|known| known != limits.shim_limits()) {
        let _ = job.send(&ToShim::Limits(limits.shim_limits()));
    }
    job.send_stop();
}

/// A kill of ours is one from nowhere in the eyes of the shim: it is shown once it is on record whose
/// it was, when the shim has left.
fn main_ended(job: &Job, exited: Exited) {
    let stop = job.stop_request().map(|stop| stop.origin(true));
    if as_broker_kill(stop.as_ref(), &exited).is_none() {
        job.apply(Event::Exited(exited));
    }
}

/// All that an adopted shim tells of the time without a broker.
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

/// Its end has begun, for which its shim has let it go on, once: a pause that knew nothing of that,
/// of this broker or of one before, may have frozen it again since.
fn thaw(shared: &Shared, job: &Job) {
    let (id, cgroup) = (job.id(), shared.launcher.hierarchy().job(job.id()));
    tokio::task::spawn_blocking(move || match cgroup.is_frozen() {
        Ok(false) => {} // one that is gone, too
        // Also when that cannot be told: one that is not frozen is none the worse for it.
        Ok(true) | Err(_) => match cgroup.freeze(false) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                tracing::error!(job = %id, "it ends, and cannot be let go on for that: {e}");
            }
            _ => tracing::info!(job = %id, "it ends, and goes on for that"),
        },
    });
}
