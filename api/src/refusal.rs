//! Why a broker closes a connection at once.
//!
//! In TLS 1.3 the client is done before the server has looked at its certificate (RFC 8446, figure
//! 1): the refusal arrives as an alert behind the handshake, and HTTP/2, which has begun to write by
//! then, mostly reports a broken pipe instead.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::client::{ConnectError, Credentials, Target, root_cause, tls_config};

/// Longer than any handshake worth waiting for, when all that is wanted is a reason.
const HANDSHAKE: Duration = Duration::from_secs(3);

/// Connects once more, writes nothing, and answers with what the broker says about it: the text of
/// its alert or of the handshake's failure. `None` where it has nothing against the caller, or
/// cannot be reached.
///
/// # Errors
/// [`ConnectError`] for an address or credentials that cannot be used at all.
pub async fn refusal(
    addr: &str,
    credentials: &Credentials,
) -> Result<Option<String>, ConnectError> {
    let target = Target::parse(addr)?;
    let tls = TlsConnector::from(Arc::new(tls_config(credentials)?));
    let began = Instant::now();
    let Ok(Ok(tcp)) =
        timeout(HANDSHAKE, TcpStream::connect((target.host.as_str(), target.port))).await
    else {
        return Ok(None);
    };
    let mut stream = match timeout(HANDSHAKE, tls.connect(target.server, tcp)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Ok(Some(root_cause(&error))),
        Err(_) => return Ok(None),
    };
    // The verdict is one network latency away, of which the handshake has just shown several.
    let limit = began.elapsed() * 4 + Duration::from_millis(100);
    match timeout(limit, stream.read_u8()).await {
        Ok(Err(error)) => Ok(Some(root_cause(&error))),
        Ok(Ok(_)) | Err(_) => Ok(None),
    }
}
