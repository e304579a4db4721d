//! One connection: TLS handshake, authentication, then HTTP/2 until either side closes it. It must not answer a call
//! before the client's certificate is verified.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::CertificateDer;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::yield_now;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;

use crate::audit::Audit;
use crate::grpc::{PeerResult, transport_status};
use crate::metrics::METRICS;
use crate::metrics::labels::TlsFailure;
use crate::model::identity::{Identity, Peer};
use crate::quota::fair_queue::FairQueue;
use crate::quota::{Permit, Quotas};
use crate::serve::budget::{Account, Budget, HEADERS, STREAMS};
use crate::serve::calls::Calls;
use crate::serve::connection_limits::ConnectionLimits;
use crate::serve::ending;
use crate::serve::handshake_queue::QueuedHandshake;
use crate::serve::handshake_rate::HandshakeRate;
use crate::serve::live::{Live, RevokedPeer};
use crate::serve::network::Network;
use crate::serve::preauth::PreauthSlot;
use crate::serve::preface::Prefaced;
use crate::serve::recorded;
use crate::serve::tls;
use crate::serve::tls::Tls;
use crate::serve::trust::refusal::Refusal;
use crate::serve::trust::verifier::with_refusal;
use crate::serve::windows::{Window, Windows};

/// What all connections share.
pub(super) struct Server {
    /// As of the last reload; an open connection keeps its configuration, and is judged again by a new one.
    tls: watch::Receiver<Tls>,
    routes: Routes,
    connection_limits: ConnectionLimits,
    handshake_rate: HandshakeRate,
    budget: Budget,
    windows: Windows,
    http: http2::Builder<TokioExecutor>,
    audit: Audit,
    revoked: mpsc::UnboundedSender<RevokedPeer>,
}

type Stream = Prefaced<TlsStream<QueuedHandshake>>;

/// A connection whose handshake is complete.
struct Shaken {
    stream: Stream,
    peer: Result<PeerResult, Refusal>,
    live: Live,
}

/// The timeout from accept(2) to the end of HTTP/2's preface, the TLS handshake included.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// Why a connection without a completed handshake was closed for another.
const EVICTED: &str = "too many connections have not authenticated yet";
/// The timeout from the start of the broker's shutdown to the end of the connection.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(2);
/// The timeout of a rejected client, from the handshake: for its call and for the status that rejects it.
const REJECT_TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP/2 PING: a dead client is detected after interval + timeout.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

impl Server {
    pub(super) fn new(
        tls: watch::Receiver<Tls>,
        routes: Routes,
        connection_limits: ConnectionLimits,
        quotas: &Quotas,
        (audit, revoked): (Audit, mpsc::UnboundedSender<RevokedPeer>),
    ) -> Server {
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_pending_accept_reset_streams(64)
            .max_local_error_reset_streams(256)
            .max_header_list_size(HEADERS)
            .max_frame_size(1 << 20)
            // Of a connection that is refused; others have theirs from the budget.
            .initial_stream_window_size(64 << 10)
            .initial_connection_window_size(64 << 10)
            // Bounds output: what a slow reader leaves in the broker's memory.
            .max_send_buf_size(16 << 10)
            .keep_alive_interval(KEEPALIVE.0)
            .keep_alive_timeout(KEEPALIVE.1);
        Server {
            tls,
            routes,
            connection_limits,
            handshake_rate: HandshakeRate::default(),
            budget: Budget::new(quotas),
            windows: Windows::new(),
            http,
            audit,
            revoked,
        }
    }

    /// One connection, from handshake to end. The journal records the peer and its address, or the error.
    pub(super) async fn serve(
        &self,
        tcp: TcpStream,
        from: SocketAddr,
        mut place: PreauthSlot,
        handshake_queue: Arc<FairQueue<Network>>,
        closing: watch::Receiver<bool>,
    ) {
        let (shaken, refusal) = tokio::select! {
            told = with_refusal(self.handshake(tcp, from, handshake_queue)) => told,
            () = place.evict() => {
                (Err(io::Error::new(io::ErrorKind::QuotaExceeded, EVICTED)), None)
            }
        };
        if let Some(refusal) = refusal {
            recorded::refused(&self.audit, from, &refusal);
        }
        let Shaken { stream, peer, mut live } = match shaken {
            Ok(shaken) => shaken,
            Err(e) => {
                METRICS.tls_failures.add(tls::failure_kind(&e), 1);
                return tracing::info!(%from, "handshake failed: {}", tls::in_words(&e));
            }
        };
        let ended = match self.admit(peer, from) {
            Ok((peer, own, account, _member)) => {
                drop(place);
                let window = self.windows.take(&own.identity);
                METRICS.connections_admitted.add(1);
                let _open = METRICS.connections.enter();
                let untaken = Arc::new(Notify::new());
                let told = Arc::clone(&untaken);
                let (end, ended) = ending::pair();
                let calls = Calls::new(self.routes.clone(), (peer, from), account, told, ended);
                let service = service_fn(move |request| calls.clone().call(request));
                let over = async {
                    let identity = &own.identity;
                    let fault = live.refused(identity).await;
                    tracing::warn!(%from, %identity, "connection ended: {fault}");
                    recorded::ended(&self.audit, from, &own, &fault);
                    end.end(fault.status());
                    if let Some(peer) = fault.revoked(identity) {
                        let _ = self.revoked.send(peer); // unless the broker ends
                    }
                };
                tokio::select! {
                    ended = self.answer(stream, &window, service, closing, over) => ended,
                    () = untaken.notified() => Err(io::Error::other("its client takes no answer")),
                }
            }
            Err(status) => tokio::select! {
                ended = self.refuse(stream, status) => ended,
                () = place.evict() => return,
            },
        };
        if let Err(e) = ended {
            tracing::debug!(%from, "connection ended: {e}");
        }
    }

    async fn handshake(
        &self,
        tcp: TcpStream,
        from: SocketAddr,
        handshake_queue: Arc<FairQueue<Network>>,
    ) -> io::Result<Shaken> {
        let network = Network::from(from.ip());
        let tcp =
            QueuedHandshake::new(tokio::net::TcpStream::from_std(tcp)?, handshake_queue, network);
        let shake = async {
            self.handshake_rate.turn(network).await;
            let mut in_force = self.tls.clone();
            let Tls { config, trust, .. } = in_force.borrow_and_update().clone();
            let mut tls = TlsAcceptor::from(config).accept(tcp).await?;
            yield_now().await; // yields this handshake's turn until other connections were polled
            tls.get_mut().0.set_free();
            let chain = chain(&tls)?;
            let mut live = Live::new(chain, in_force);
            let peer = live.judge(&trust);
            Ok(Shaken { stream: Prefaced::wait(tls).await?, peer, live })
        };
        timeout(HANDSHAKE_TIMEOUT, shake).await?
    }

    /// Admits an authenticated connection: its account and its slot, or the status that rejects it.
    #[allow(clippy::type_complexity, reason = "used once")]
    fn admit(
        &self,
        peer: Result<PeerResult, Refusal>,
        from: SocketAddr,
    ) -> Result<(PeerResult, Arc<Peer>, Account, Permit<Identity>), Status> {
        let peer = peer.map_err(|refusal| {
            METRICS.tls_failures.add(TlsFailure::BadCertificate, 1);
            tracing::warn!(%from, "no call will be answered: {refusal}");
            recorded::refused(&self.audit, from, &refusal);
            transport_status::certificate_refused(refusal.reason(), &refusal)
        })?;
        let own = match peer.as_ref() {
            Ok(own) => Arc::clone(own),
            Err(e) => {
                METRICS.tls_failures.add(TlsFailure::NoIdentity, 1);
                tracing::warn!(%from, "no call will be answered: {e}");
                recorded::nameless(&self.audit, from, e);
                return Err(transport_status::unauthenticated(e));
            }
        };
        let identity = &own.identity;
        let member = self.connection_limits.admit(identity).map_err(|exceeded| {
            METRICS.tls_failures.add(TlsFailure::TooMany, 1);
            tracing::warn!(%from, %identity, "no call will be answered: {exceeded}");
            recorded::one_too_many(&self.audit, from, &own, &exceeded);
            transport_status::quota_exceeded(exceeded)
        })?;
        tracing::info!(%from, %identity, "connected");
        let account = self.budget.account(identity.clone());
        Ok((peer, own, account, member))
    }

    /// Answers calls until `over`, or until the broker closes: then calls under way have [`GOAWAY_TIMEOUT`].
    async fn answer<S>(
        &self,
        stream: Stream,
        window: &Window,
        service: S,
        mut closing: watch::Receiver<bool>,
        over: impl Future<Output = ()>,
    ) -> io::Result<()>
    where
        S: HttpService<Incoming, ResBody = Body>,
        S::Future: Send + 'static,
        S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut http = self.http.clone();
        // Bounds standard input: a job that does not read holds back this much and no more.
        http.initial_stream_window_size(window.of_streams())
            .initial_connection_window_size(window.of_the_connection());
        let connection = http.serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return ended.map_err(io::Error::other),
            _ = closing.wait_for(|closing| *closing) => {}
            () = over => {}
        }
        connection.as_mut().graceful_shutdown();
        // A client that does not read GOAWAY must not delay the broker's shutdown, nor its own end.
        match timeout(GOAWAY_TIMEOUT, connection).await {
            Ok(ended) => ended.map_err(io::Error::other),
            Err(late) => Err(late.into()),
        }
    }

    /// Answers every call with this status, for [`REJECT_TIMEOUT`] at most.
    async fn refuse(&self, stream: Stream, status: Status) -> io::Result<()> {
        let service = service_fn(move |_: Request<Incoming>| {
            std::future::ready(Ok::<_, Infallible>(status.clone().into_http::<Body>()))
        });
        let connection = self.http.serve_connection(TokioIo::new(stream), service);
        match timeout(REJECT_TIMEOUT, connection).await {
            Ok(ended) => ended.map_err(io::Error::other),
            Err(over) => Err(over.into()),
        }
    }
}

/// The client's certificates: the first is the leaf (RFC 8446, 4.4.2); the verifier requires one.
fn chain(tls: &TlsStream<QueuedHandshake>) -> io::Result<Vec<CertificateDer<'static>>> {
    let (_, session) = tls.get_ref();
    if session.alpn_protocol() != Some(b"h2") {
        let fault = "the client did not ask for h2 (ALPN)";
        return Err(io::Error::new(io::ErrorKind::Unsupported, fault));
    }
    match session.peer_certificates() {
        Some(chain) if !chain.is_empty() => {
            Ok(chain.iter().map(|der| der.clone().into_owned()).collect())
        }
        _ => Err(io::Error::other("no client certificate")),
    }
}
