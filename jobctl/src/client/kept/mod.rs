//! A connection to the broker that outlives a command, as ssh's ControlMaster: a process of the user's own holds it
//! behind a Unix socket. It must never be needed: whoever does not find it connects by itself.

mod holder;
mod place;

use std::io;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use job_api::client::{self, Credentials, Dial};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::client::settings::Settings;
use crate::sys;
pub(crate) use holder::hold;
pub(crate) use place::Place;
use place::WELCOME;

/// A holder on this host answers at once; one that is stopped never does.
const ANSWER: Duration = Duration::from_millis(500);

/// Opens connections: through the holder, or else to the broker.
#[derive(Clone)]
pub(crate) struct Dialer {
    place: Place,
    direct: client::Dialer,
    /// The first connection goes through the holder.
    was_kept: Arc<AtomicBool>,
}

impl Dialer {
    /// `None` if none is to be kept, or cannot be.
    pub(crate) fn of(settings: &Settings, credentials: &Credentials) -> Option<Dialer> {
        settings.persist?;
        let place = Place::find(&settings.addr, credentials).ok()?;
        let direct = client::Dialer::new(&settings.addr, credentials).ok()?;
        Some(Dialer { place, direct, was_kept: Arc::default() })
    }

    /// Starts a holder for the commands after this one, unless there is one. That it cannot be started is no fault of
    /// the command that runs; `jobctl connect` says it.
    pub(crate) fn keep_one(&self, settings: &Settings) {
        if !self.was_kept.load(Ordering::Relaxed) {
            let _ = spawn(settings);
        }
    }
}

impl Dial for Dialer {
    type Io = Connection;

    fn uri(&self) -> tonic::transport::Uri {
        self.direct.uri()
    }

    async fn dial(&self) -> io::Result<Connection> {
        if let Some(kept) = find(&self.place).await {
            self.was_kept.store(true, Ordering::Relaxed);
            return Ok(Connection(Box::new(kept)));
        }
        Ok(Connection(Box::new(self.direct.dial().await?)))
    }
}

/// The holder's socket, if there is one that has a place for us.
pub(crate) async fn find(place: &Place) -> Option<UnixStream> {
    let mut stream = UnixStream::connect(place.socket()).await.ok()?;
    let is_own = stream.peer_cred().is_ok_and(|peer| peer.uid() == sys::own_uid());
    let welcome = timeout(ANSWER, stream.read_u8()).await.ok()?.ok()?;
    (is_own && welcome == WELCOME).then_some(stream)
}

/// Starts a holder, which has nothing of ours but its variables. Ends by itself if there is one already.
pub(crate) fn spawn(settings: &Settings) -> io::Result<Child> {
    let Some(persist) = settings.persist else { return Err(io::ErrorKind::InvalidInput.into()) };
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["connect", "--hold"]).env_remove("JOBCTL_CONTEXT");
    command.env("JOBCTL_ADDR", &settings.addr);
    command.env("JOBCTL_PERSIST", format!("{}s", persist.as_secs().max(1)));
    let files = [
        ("JOBCTL_CA", &settings.ca),
        ("JOBCTL_CERT", &settings.cert),
        ("JOBCTL_KEY", &settings.key),
    ];
    for (name, file) in files {
        command.env(name, std::path::absolute(file)?);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.current_dir("/").spawn()
}

/// A connection of either kind.
pub(crate) struct Connection(Box<dyn Duplex>);

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}
