//! The process that holds a connection: it relays the calls of its user's commands, message by message, as HTTP/2. It
//! must not outlive the connection, and must not let one command that does not read hold up the others.

use std::io;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper::{Request, Response, client, server};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use job_api::client::{Credentials, Dial as _, Dialer};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::place::{Place, WELCOME};
use crate::client::settings::Settings;
use crate::sys;

/// Commands at a time. Each makes a few calls at once; the broker takes 100 of one connection.
const COMMANDS: usize = 32;
/// What a command that does not read leaves here.
const STREAM_WINDOW: u32 = 8 << 20;
/// More than all streams can leave, so that the others go on.
const CONNECTION_WINDOW: u32 = 1 << 30;
const FRAME: u32 = 1 << 20;
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Holds a connection until it was idle for this time, it ends, or SIGTERM comes. Does nothing if another process
/// holds one.
///
/// # Errors
/// There is no connection, or no socket.
pub(crate) async fn hold(
    settings: &Settings,
    credentials: &Credentials,
    idle: Duration,
) -> io::Result<()> {
    let place = Place::find(&settings.addr, credentials)?;
    let Some(_lock) = place.lock()? else { return Ok(()) };
    let dialer = Dialer::new(&settings.addr, credentials).map_err(io::Error::other)?;
    let broker = TokioIo::new(dialer.dial().await?);
    let opened = client::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .handshake(broker)
        .await;
    let (calls, connection) = opened.map_err(io::Error::other)?;
    let mut asked = signal(SignalKind::terminate())?;
    let listener = place.listen()?;
    tokio::select! {
        _ = connection => {}
        () = serve(&listener, &calls, idle) => {}
        _ = asked.recv() => {}
    }
    place.leave();
    Ok(())
}

/// Until nobody has come for this time.
async fn serve(listener: &UnixListener, calls: &SendRequest<Incoming>, idle: Duration) {
    let mut commands = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if commands.len() < COMMANDS && !calls.is_closed() => {
                    commands.spawn(command(stream, calls.clone()));
                }
                Ok(_) => {} // without a welcome it connects by itself
                Err(_) => sleep(Duration::from_millis(100)).await, // out of descriptors
            },
            Some(_) = commands.join_next() => {}
            () = sleep(idle), if commands.is_empty() => return,
        }
    }
}

/// The calls of one command.
async fn command(mut stream: UnixStream, calls: SendRequest<Incoming>) {
    let is_own = stream.peer_cred().is_ok_and(|peer| peer.uid() == sys::own_uid());
    if !is_own || stream.write_u8(WELCOME).await.is_err() {
        return;
    }
    let service = service_fn(move |request| relay(calls.clone(), request));
    // Either side may end it: the command by its end, the broker by that of the connection.
    let _ = server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(STREAM_WINDOW)
        .max_frame_size(FRAME)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// One call, its answer as it comes, the trailers with it.
async fn relay(
    mut calls: SendRequest<Incoming>,
    request: Request<Incoming>,
) -> hyper::Result<Response<Incoming>> {
    calls.ready().await?;
    calls.send_request(request).await
}
