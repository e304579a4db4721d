//! Connections of attackers and bystanders: mutual TLS from a loopback address of their own, with the API's client or
//! with plain HTTP/2. It must not limit what a caller sends.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use job_api::client::Client;
use job_api::v1::job_service_client::JobServiceClient;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, IpAddr, PrivateKeyDer, ServerName};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Endpoint, Uri};

/// Larger than any response may be.
const MESSAGE: usize = 64 << 20;

/// The server, the identity, and the source address.
#[derive(Clone)]
pub struct Peer {
    addr: SocketAddr,
    from: Ipv4Addr,
    tls: TlsConnector,
}

impl Peer {
    /// From the environment variables that [`super::Attacker`] and [`super::Bystander`] set.
    ///
    /// # Panics
    /// If a variable is missing or invalid.
    pub fn of_environment() -> Peer {
        let path = |name: &str| PathBuf::from(variable(name));
        Peer {
            addr: variable("JOBCTL_ADDR").parse().expect("an address"),
            from: variable("JOB_TESTS_FROM").parse().expect("an address"),
            tls: connector(&path("JOBCTL_CERT"), &path("JOBCTL_KEY")),
        }
    }

    /// The same peer with another certificate and its key.
    ///
    /// # Panics
    /// If the files are not a certificate and a key.
    #[must_use]
    pub fn with_certificate(&self, certificate: &Path, key: &Path) -> Peer {
        Peer { tls: connector(certificate, key), ..self.clone() }
    }

    /// A connection without TLS.
    ///
    /// # Errors
    /// Errors of socket(2), bind(2) and connect(2).
    pub async fn tcp(&self) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((self.from, 0).into())?;
        let tcp = socket.connect(self.addr).await?;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    }

    /// A connection after its TLS handshake.
    ///
    /// # Errors
    /// Errors of [`Peer::tcp`] and of TLS.
    pub async fn tls(&self) -> io::Result<TlsStream<TcpStream>> {
        let ip = IpAddr::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST));
        self.tls.connect(ServerName::IpAddress(ip), self.tcp().await?).await
    }

    /// A client of the API.
    ///
    /// # Errors
    /// Errors of the transport.
    pub async fn client(&self) -> Result<Client, tonic::transport::Error> {
        let peer = self.clone();
        let dial = tower::service_fn(move |_: Uri| {
            let peer = peer.clone();
            async move { Ok::<_, io::Error>(TokioIo::new(peer.tls().await?)) }
        });
        let endpoint = Endpoint::from_static("https://127.0.0.1");
        let endpoint = endpoint.connect_timeout(Duration::from_secs(10));
        let channel = endpoint.connect_with_connector(dial).await?;
        let client =
            JobServiceClient::with_interceptor(channel, job_api::client::Reason::default());
        Ok(client.max_decoding_message_size(MESSAGE).max_encoding_message_size(MESSAGE))
    }

    /// HTTP/2 without gRPC, with these `settings`; a background task handles the frames.
    ///
    /// # Errors
    /// Errors of TLS and HTTP/2.
    pub async fn http2(&self, settings: &Builder) -> Result<SendRequest<Bytes>, h2::Error> {
        let tls = self.tls().await.map_err(|e| {
            eprintln!("attacker: no connection: {e}");
            h2::Error::from(h2::Reason::CONNECT_ERROR)
        })?;
        let (send, connection) = settings.handshake(tls).await?;
        tokio::spawn(connection);
        Ok(send)
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("no {name}"))
}

fn connector(certificate: &Path, key: &Path) -> TlsConnector {
    let ca = CertificateDer::from_pem_file(variable("JOBCTL_CA")).expect("a certificate");
    let chain = CertificateDer::pem_file_iter(certificate).expect("certificates");
    let chain = chain.collect::<Result<Vec<_>, _>>().expect("certificates");
    let key = PrivateKeyDer::from_pem_file(key).expect("a key");
    let mut roots = RootCertStore::empty();
    roots.add(ca).expect("a certificate of an authority");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("rustls has TLS 1.3")
        .with_root_certificates(roots);
    let mut config = config.with_client_auth_cert(chain, key).expect("a pair");
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsConnector::from(Arc::new(config))
}
