//! One connection: handshake, who it is, HTTP/2 until it ends or the broker does.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryFutureExt;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::service::Routes;
use tower::ServiceExt;

use super::tls::Tls;
use crate::grpc::{self, PeerResult};
use crate::identity;

/// What all connections share.
pub(super) struct Server {
    /// As of the last reload; connections keep what they began with.
    tls: watch::Receiver<Tls>,
    routes: Routes,
    http: http2::Builder<TokioExecutor>,
}

type Stream = TlsStream<tokio::net::TcpStream>;

/// From accept(2) to the end of the handshake.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// From the news that the broker ends to the end of the connection.
const FAREWELL: Duration = Duration::from_secs(2);
/// A client that is gone is noticed after interval + timeout.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

impl Server {
    pub(super) fn new(tls: watch::Receiver<Tls>, routes: Routes) -> Server {
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .max_concurrent_streams(1024)
            .max_pending_accept_reset_streams(64)
            .max_local_error_reset_streams(256)
            .max_header_list_size(16 << 10)
            .max_frame_size(1 << 20)
            // Standard input: a job that does not read holds back so much of it, not more.
            .initial_stream_window_size(256 << 10)
            .initial_connection_window_size(1 << 20)
            // Output: what a slow reader may leave with us.
            .max_send_buf_size(16 << 10)
            .keep_alive_interval(KEEPALIVE.0)
            .keep_alive_timeout(KEEPALIVE.1);
        Server { tls, routes, http }
    }

    /// One connection, from handshake to end. The journal tells who came, from where, or why not.
    pub(super) async fn serve(
        &self,
        tcp: TcpStream,
        from: SocketAddr,
        closing: watch::Receiver<bool>,
    ) {
        let (tls, peer) = match self.handshake(tcp).await {
            Ok(shaken) => shaken,
            Err(e) => return tracing::info!(%from, "handshake failed: {e}"),
        };
        match peer.as_ref() {
            Ok(peer) => tracing::info!(%from, identity = %peer.identity, "connected"),
            Err(e) => tracing::warn!(%from, "no call will be answered: {e}"),
        }
        if let Err(e) = self.answer(tls, peer, closing).await {
            tracing::debug!(%from, "connection ended: {e}");
        }
    }

    async fn handshake(&self, tcp: TcpStream) -> io::Result<(Stream, PeerResult)> {
        let tcp = tokio::net::TcpStream::from_std(tcp)?;
        let Tls { config, trust_domain } = self.tls.borrow().clone();
        let tls = timeout(HANDSHAKE, TlsAcceptor::from(config).accept(tcp)).await??;
        let peer = peer(&tls, &trust_domain)?;
        Ok((tls, peer))
    }

    async fn answer(
        &self,
        tls: Stream,
        peer: PeerResult,
        mut closing: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let routes = self.routes.clone();
        let service = tower::service_fn(move |mut request: hyper::Request<_>| {
            request.extensions_mut().insert(Arc::clone(&peer));
            routes.clone().oneshot(request).map_ok(grpc::guard)
        });
        let connection =
            self.http.serve_connection(TokioIo::new(tls), TowerToHyperService::new(service));
        let mut connection = pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return ended.map_err(io::Error::other),
            _ = closing.wait_for(|closing| *closing) => {}
        }
        connection.as_mut().graceful_shutdown();
        // A client that does not read its farewell must not keep the broker from ending.
        match timeout(FAREWELL, connection).await {
            Ok(ended) => ended.map_err(io::Error::other),
            Err(late) => Err(late.into()),
        }
    }
}

fn peer(tls: &Stream, trust_domain: &str) -> io::Result<PeerResult> {
    let (_, session) = tls.get_ref();
    if session.alpn_protocol() != Some(b"h2") {
        return Err(io::Error::other("the client did not ask for h2 (ALPN)"));
    }
    // The first is the leaf's (RFC 8446, 4.4.2); the verifier has insisted that there is one.
    let leaf = session.peer_certificates().and_then(|chain| chain.first());
    let leaf = leaf.ok_or_else(|| io::Error::other("no client certificate"))?;
    Ok(Arc::new(identity::peer(leaf, trust_domain)))
}
