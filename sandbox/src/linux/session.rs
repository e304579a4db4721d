//! The broker's part in the conversation with a shim, as far as one command needs it: from HELLO to ENDED, with input and
//! output. It must not touch processes and cgroups.

use std::fs::File;
use std::future::pending;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use job_shim::frame;
use job_shim::index::Stream;
use job_shim::record::{self, ExitFile};
use job_shim::wire::{Exited, FromShim, INPUT_WINDOW, Input, InputAck, Progress, ToShim, Watch};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, watch};

use crate::builder::Streams;
use crate::error::Error;

/// Bytes that are copied at once.
const PIECE: usize = 32 << 10;

/// How a command ended.
#[derive(Debug)]
pub(super) struct End {
    pub(super) exited: Exited,
    pub(super) progress: Progress,
    pub(super) duration: Duration,
}

/// To a shim.
struct Shim(Mutex<OwnedWriteHalf>);

/// From HELLO and STARTED to the end, with the caller's streams.
///
/// # Errors
/// `Stream` and `Lost`; the command may still run.
pub(super) async fn follow(
    (control, reader): (UnixStream, frame::Reader<FromShim>),
    streams: Streams,
    directory: &Path,
    boot_id: &[u8; 16],
) -> Result<End, Error> {
    let began = Instant::now();
    let (from, to) = control.into_split();
    let shim = Shim(Mutex::new(to));
    let Streams { stdin, stdout, stderr } = streams;
    let is_watched = stdout.is_some() || stderr.is_some();
    let (progress, seen) = watch::channel(Progress::default());
    let (acknowledge, acknowledged) = watch::channel(InputAck::default());
    let told = Told { progress, acknowledge, is_watched };
    let conversation = async {
        tokio::try_join!(
            shim.listen(from, reader, told),
            copy(Stream::Stdout, directory, stdout, seen.clone()),
            copy(Stream::Stderr, directory, stderr, seen.clone()),
        )
    };
    let input = async {
        match stdin {
            Some(stdin) => shim.feed(stdin, acknowledged).await,
            None => pending().await,
        }
    };
    tokio::pin!(conversation);
    let ((exited, progress), (), ()) = tokio::select! {
        biased;
        ended = &mut conversation => ended?,
        fed = input => {
            fed?;
            conversation.await?
        }
    };
    let written = std::fs::read(directory.join(record::FILE_NAME)).unwrap_or_default();
    // By a clock that nobody can set; if the record is lost, by this process's.
    let duration = ExitFile::from_bytes(&written, boot_id).ran.unwrap_or_else(|| began.elapsed());
    Ok(End { exited, progress, duration })
}

/// What has been kept of a stream, once all is over.
///
/// # Errors
/// `Lost`.
pub(super) fn kept(stream: Stream, directory: &Path, length: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    let file = File::open(directory.join(stream.file_name())).map_err(|e| lost(&e))?;
    file.read_exact_at(&mut bytes, 0).map_err(|e| lost(&e))?;
    Ok(bytes)
}

/// What is passed on of what the shim says.
struct Told {
    progress: watch::Sender<Progress>,
    acknowledge: watch::Sender<InputAck>,
    is_watched: bool,
}

impl Shim {
    /// `false` if it does not listen any more. That is no failure: it may have said ENDED before, which is still to
    /// be read; if it has not, reading says so.
    async fn send(&self, message: &ToShim) -> bool {
        let mut bytes = Vec::new();
        frame::write(message, &mut bytes);
        self.0.lock().await.write_all(&bytes).await.is_ok()
    }

    async fn watch(&self, seen: Progress, told: &Told) {
        if told.is_watched {
            self.send(&ToShim::Watch(Watch { seen })).await;
        }
    }

    /// Until ENDED. `told` is dropped with that, which ends the copies.
    async fn listen(
        &self,
        mut from: OwnedReadHalf,
        mut reader: frame::Reader<FromShim>,
        told: Told,
    ) -> Result<(Exited, Progress), Error> {
        let (mut exited, mut bytes) = (None, [0; 512]);
        self.watch(Progress::default(), &told).await;
        loop {
            while let Some(message) = reader.next_message().map_err(|e| lost(&e))? {
                match message {
                    FromShim::Progress(progress) => {
                        told.progress.send_replace(progress);
                        self.watch(progress, &told).await;
                    }
                    FromShim::InputAck(ack) => _ = told.acknowledge.send_replace(ack),
                    FromShim::Exited(end) => exited = Some(end),
                    FromShim::Ended(ended) => {
                        told.progress.send_replace(ended.progress);
                        let exited = exited.ok_or_else(|| lost(&"it said ENDED before EXITED"))?;
                        return Ok((exited, ended.progress));
                    }
                    _ => {} // nothing that was not asked for changes anything here
                }
            }
            match from.read(&mut bytes).await {
                Ok(0) => return Err(lost(&"its connection was closed")),
                Ok(length) => reader.push(&bytes[..length]),
                Err(e) => return Err(lost(&e)),
            }
        }
    }

    /// Until the end of the caller's stream, or until nobody reads any more.
    async fn feed(
        &self,
        mut stdin: Box<dyn AsyncRead + Send + Unpin>,
        mut acknowledged: watch::Receiver<InputAck>,
    ) -> Result<(), Error> {
        let (mut buffer, mut offset) = (vec![0; PIECE], 0);
        loop {
            let failed = |source| Error::Stream { stream: "stdin", source };
            let length = stdin.read(&mut buffer).await.map_err(failed)?;
            let fits = |ack: &InputAck| {
                ack.closed || offset + length as u64 - ack.accepted <= INPUT_WINDOW
            };
            match acknowledged.wait_for(fits).await {
                Ok(ack) if !ack.closed => {}
                _ => return Ok(()), // nobody reads, or it is over
            }
            let (data, end) = (buffer[..length].to_vec(), length == 0);
            let is_sent = self.send(&ToShim::Input(Input { offset, data, end })).await;
            if end || !is_sent {
                return Ok(());
            }
            offset += length as u64;
        }
    }
}

/// From a log to the caller's stream, as far as the shim has said, until it says no more.
async fn copy(
    stream: Stream,
    directory: &Path,
    to: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    mut seen: watch::Receiver<Progress>,
) -> Result<(), Error> {
    let Some(mut to) = to else { return Ok(()) };
    let name = match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    let failed = |source| Error::Stream { stream: name, source };
    let log = File::open(directory.join(stream.file_name())).map_err(|e| lost(&e))?;
    let (mut buffer, mut at) = (vec![0; PIECE], 0);
    let mut is_over = false;
    while !is_over {
        is_over = seen.changed().await.is_err();
        let progress = *seen.borrow_and_update();
        let end = [progress.stdout, progress.stderr][stream.index()];
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            let length = log.read_at(&mut buffer[..most], at).map_err(|e| lost(&e))?;
            if length == 0 {
                return Err(lost(&io::Error::from(io::ErrorKind::UnexpectedEof)));
            }
            to.write_all(&buffer[..length]).await.map_err(failed)?;
            at += length as u64;
        }
    }
    to.shutdown().await.map_err(failed)
}

fn lost(why: &dyn ToString) -> Error {
    Error::Lost(why.to_string())
}
