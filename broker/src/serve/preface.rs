//! Waits for the HTTP/2 connection preface (RFC 9113, 3.4), for which hyper has no timeout. It must not consume the
//! preface: hyper reads it again.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// The first bytes of every client (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The connection from its first byte: the preface is read again.
pub(super) struct Prefaced<S> {
    left: &'static [u8],
    stream: S,
}

impl<S: AsyncRead + Unpin> Prefaced<S> {
    /// Waits for the preface.
    ///
    /// # Errors
    /// Other bytes, or the end of the stream.
    pub(super) async fn wait(mut stream: S) -> io::Result<Prefaced<S>> {
        let mut came = [0; PREFACE.len()];
        stream.read_exact(&mut came).await?;
        if came != PREFACE {
            return Err(io::Error::other("the client does not speak HTTP/2"));
        }
        Ok(Prefaced { left: PREFACE, stream })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefaced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let (now, later) = self.left.split_at(self.left.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.left = later;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefaced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_looked_at_is_read_again() {
        let sent = [PREFACE, b"frames"].concat();
        let mut read = String::new();
        let mut prefaced = Prefaced::wait(&sent[..]).await.unwrap();
        prefaced.read_to_string(&mut read).await.unwrap();
        assert_eq!(read.as_bytes(), sent);
    }

    #[tokio::test]
    async fn another_protocol_is_none() {
        for other in [&b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"[..], b"PRI"] {
            assert!(Prefaced::wait(other).await.is_err());
        }
    }
}
