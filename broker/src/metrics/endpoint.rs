//! The endpoint that Prometheus scrapes: HTTP/1.1 on a loopback address or a Unix socket. It must not answer anything
//! but GET of the metrics, nor let whoever may connect keep the broker busy: connections, their time and the number
//! of texts made in a second are bounded.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::metrics::text::{Format, Text};
use crate::sync::lock;

/// Connections at a time. One more ends the oldest: a scrape takes some milliseconds, and whoever holds connections
/// open must not keep it out.
const CONNECTIONS: usize = 32;
/// The time of a connection, which has one request.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// The time for the head of the request.
const HEAD_TIME: Duration = Duration::from_secs(2);
/// How long a text is given again instead of being made anew.
const FRESH: Duration = Duration::from_millis(100);
/// The pause after accept(2) fails.
const RETRY: Duration = Duration::from_secs(1);

/// Writes all metrics; called on the endpoint's thread.
pub(crate) type Collect = Box<dyn Fn(&mut Text) + Send + Sync>;

/// Where it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// A loopback address.
    Tcp(SocketAddr),
    /// A socket with the mode and the owner of its file.
    Unix {
        /// Its path.
        path: PathBuf,
        /// Permission bits.
        mode: u32,
        /// Uid and gid; root's where there is none.
        owner: Option<(u32, u32)>,
    },
}

enum Listener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

struct Server {
    collect: Collect,
    made: Mutex<[Option<(Instant, Bytes)>; 2]>,
}

/// Listens, and serves on a thread of its own for as long as the process lives: reading 10,000 descriptors of /proc
/// must not delay a job.
///
/// # Errors
/// The address cannot be bound, in words for an operator.
pub(crate) fn start(address: &Address, collect: Collect) -> io::Result<()> {
    let listener = bind(address)?;
    let server = Arc::new(Server { collect, made: Mutex::default() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("metrics".into()).spawn(move || {
        if let Err(e) = runtime.block_on(serve(server, listener)) {
            tracing::error!("the metrics are not served: {e}");
        }
    })?;
    Ok(())
}

fn bind(address: &Address) -> io::Result<Listener> {
    match address {
        Address::Tcp(addr) => {
            let listener = std::net::TcpListener::bind(addr)?;
            listener.set_nonblocking(true)?;
            Ok(Listener::Tcp(listener))
        }
        Address::Unix { path, mode, owner } => {
            check_directory(path)?;
            // A former broker's socket has no listener; any other file is somebody's.
            if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
                fs::remove_file(path)?;
            }
            let listener = std::os::unix::net::UnixListener::bind(path)?;
            listener.set_nonblocking(true)?;
            // Nobody else can replace the file: the directory is root's.
            if let Some((uid, gid)) = owner {
                std::os::unix::fs::lchown(path, Some(*uid), Some(*gid))?;
            }
            fs::set_permissions(path, fs::Permissions::from_mode(*mode))?;
            Ok(Listener::Unix(listener))
        }
    }
}

/// In a directory of another user, or one that others may write to, the file could be replaced by a link before its
/// owner and mode are set.
fn check_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let found = fs::symlink_metadata(directory)?;
    if found.uid() == 0 && found.mode() & 0o022 == 0 && found.is_dir() {
        return Ok(());
    }
    let directory = directory.display();
    Err(io::Error::other(format!(
        "{directory} must be a directory of root's that nobody else may write to"
    )))
}

async fn serve(server: Arc<Server>, listener: Listener) -> io::Result<()> {
    let mut open = VecDeque::new();
    match listener {
        Listener::Tcp(listener) => {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => admit(&mut open, &server, stream),
                    Err(e) => pause(&e).await,
                }
            }
        }
        Listener::Unix(listener) => {
            let listener = tokio::net::UnixListener::from_std(listener)?;
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => admit(&mut open, &server, stream),
                    Err(e) => pause(&e).await,
                }
            }
        }
    }
}

async fn pause(error: &io::Error) {
    tracing::debug!("no connection for metrics: {error}");
    sleep(RETRY).await; // a shortage of descriptors: accept(2) would fail again at once
}

fn admit(
    open: &mut VecDeque<AbortHandle>,
    server: &Arc<Server>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) {
    open.retain(|connection| !connection.is_finished());
    if open.len() == CONNECTIONS
        && let Some(oldest) = open.pop_front()
    {
        oldest.abort();
    }
    let server = Arc::clone(server);
    let answer = service_fn(move |request| {
        let answer = server.answer(&request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .keep_alive(false)
        .max_buf_size(8 << 10)
        .serve_connection(TokioIo::new(stream), answer);
    open.push_back(tokio::spawn(timeout(CONNECTION_TIME, connection)).abort_handle());
}

impl Server {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let status = |status| {
            let mut response = Response::new(Full::default());
            *response.status_mut() = status;
            response
        };
        if request.uri().path() != "/metrics" {
            return status(StatusCode::NOT_FOUND);
        }
        if request.method() != Method::GET {
            let mut response = status(StatusCode::METHOD_NOT_ALLOWED);
            response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET"));
            return response;
        }
        let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
        let format = Format::accepted(accept.unwrap_or_default());
        let mut response = Response::new(Full::new(self.text(format)));
        let content_type = hyper::header::HeaderValue::from_static(format.content_type());
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        response
    }

    /// The text, made anew at most every [`FRESH`].
    fn text(&self, format: Format) -> Bytes {
        let mut made = lock(&self.made);
        let made = &mut made[usize::from(format == Format::Plain)];
        if let Some((at, text)) = made.as_ref()
            && at.elapsed() < FRESH
        {
            return text.clone();
        }
        let mut text = Text::new(format);
        (self.collect)(&mut text);
        let text = Bytes::from(text.finish());
        *made = Some((Instant::now(), text.clone()));
        text
    }
}
