//! HTTP/2 frame by frame (RFC 9113), for input that no HTTP/2 implementation sends. It must not validate what it
//! sends.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::Peer;

/// Frame type DATA, RFC 9113, section 6.
pub const DATA: u8 = 0;
/// Frame type HEADERS.
pub const HEADERS: u8 = 1;
/// Frame type RST_STREAM.
pub const RST_STREAM: u8 = 3;
/// Frame type SETTINGS.
pub const SETTINGS: u8 = 4;
/// Frame type PING.
pub const PING: u8 = 6;
/// Frame type CONTINUATION.
pub const CONTINUATION: u8 = 9;
/// The flag END_HEADERS of a header's last frame.
pub const END_HEADERS: u8 = 4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long the peer may read nothing before a send fails.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

type Stream = TlsStream<TcpStream>;

/// A connection after its preface. Incoming bytes are read and discarded.
#[derive(Debug)]
pub struct Frames {
    write: WriteHalf<Stream>,
    read: JoinHandle<ReadHalf<Stream>>,
}

impl Frames {
    /// A connection with HTTP/2's default settings.
    ///
    /// # Errors
    /// Errors of TCP and TLS.
    pub async fn open(peer: &Peer) -> io::Result<Frames> {
        let (mut read, mut write) = tokio::io::split(peer.tls().await?);
        write.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await?;
        write.flush().await?;
        let read = tokio::spawn(async move {
            let mut buffer = vec![0; 64 << 10];
            while read.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
            read
        });
        Ok(Frames { write, read })
    }

    /// Sends frames.
    ///
    /// # Errors
    /// The peer has closed the connection, or reads nothing for two seconds.
    pub async fn send(&mut self, frames: &[u8]) -> io::Result<()> {
        let send = async {
            self.write.write_all(frames).await?;
            self.write.flush().await
        };
        timeout(WRITE_TIMEOUT, send).await?
    }

    /// Whether the peer closes the connection within this time.
    pub async fn is_ended(self, within: Duration) -> bool {
        timeout(within, self.read).await.is_ok()
    }
}

/// Encodes a frame.
///
/// # Panics
/// If the payload exceeds a frame's maximum size.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("frames are below 16 MiB").to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [head.as_slice(), payload].concat()
}

/// A literal header field, without Huffman coding and without an index (RFC 7541, 6.2.2).
pub fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [integer(text.len()), text.as_bytes().to_vec()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// The header of a call to this method.
pub fn header(method: &str) -> Vec<u8> {
    let path = format!("/job.v1.JobService/{method}");
    let fields = [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "127.0.0.1"),
        (":path", path.as_str()),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

/// An integer with a 7-bit prefix, RFC 7541, 5.1.
fn integer(mut value: usize) -> Vec<u8> {
    if value < 127 {
        return vec![value as u8];
    }
    let mut bytes = vec![127];
    value -= 127;
    while value >= 128 {
        bytes.push((value % 128) as u8 | 128);
        value /= 128;
    }
    bytes.push(value as u8);
    bytes
}
