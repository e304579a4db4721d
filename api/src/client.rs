//! A connection to a broker: mutual TLS 1.3 over HTTP/2, with windows large enough for output at
//! full speed.

use std::error::Error as _;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, ClientConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::metadata::{BinaryMetadataValue, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};

use crate::REASON_METADATA;
use crate::v1::job_service_client::JobServiceClient;

/// The client of the contract, over one connection that re-opens itself when it is used again.
pub type Client = JobServiceClient<InterceptedService<Channel, Reason>>;

/// Adds the caller's reason to each call, for the broker's audit.
#[derive(Debug, Clone, Default)]
pub struct Reason(Option<BinaryMetadataValue>);

impl Interceptor for Reason {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(reason) = &self.0 {
            request.metadata_mut().insert_bin(REASON_METADATA, reason.clone());
        }
        Ok(request)
    }
}

/// What a client needs to know to reach a broker and to be somebody there.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// PEM: the authority that signed the broker's certificate.
    pub ca: Vec<u8>,
    /// PEM: the caller's certificate, leaf first.
    pub cert: Vec<u8>,
    /// PEM: its private key.
    pub key: Vec<u8>,
}

/// Why no connection came to be, by whose doing.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is not `HOST:PORT`.
    #[error("address \"{0}\" is not HOST:PORT, e.g. build7.example.org:7443 or [::1]:7443")]
    Address(String),
    /// One of the three PEM texts does not hold what it should.
    #[error("the {what} does not hold a usable PEM {what}: {detail}")]
    Pem {
        /// "CA certificate", "certificate" or "key".
        what: &'static str,
        /// What the parser said.
        detail: String,
    },
    /// Certificate and key do not belong together, or the key type is not supported.
    #[error("certificate and key cannot be used: {0}")]
    Identity(rustls::Error),
    /// Nobody answers there, or TLS failed; the text names the cause.
    #[error("{0}")]
    Transport(String),
}

/// HTTP/2 windows: 160 MB/s over a round trip of 200 ms. Measured on the loopback interface, 1 MiB frames and windows
/// of 16 MiB bring 1.5 to 2 times the defaults' rate.
const STREAM_WINDOW: u32 = 32 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;
const FRAME: u32 = 1 << 20;

/// Bytes taken from the socket at once: rustls asks for 4 KiB each time.
const READ: usize = 256 << 10;

/// The largest message a client accepts: one chunk of output with room to spare.
const MAX_MESSAGE: usize = 8 << 20;

/// Connects to `addr` (`HOST:PORT`) and answers when the TLS handshake is done.
///
/// ```no_run
/// use job_api::client::{self, Credentials};
/// use job_api::v1::ListJobsRequest;
///
/// # async fn list() -> Result<(), Box<dyn std::error::Error>> {
/// let credentials = Credentials {
///     ca: std::fs::read("ca.crt")?,
///     cert: std::fs::read("me.crt")?,
///     key: std::fs::read("me.key")?,
/// };
/// let mut broker = client::connect("build7.example.org:7443", &credentials).await?;
/// for job in broker.list_jobs(ListJobsRequest::default()).await?.into_inner().jobs {
///     println!("{} {}", job.id, job.state().as_str_name());
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ConnectError`]; a broker that refuses the caller's certificate is found out with the first
/// call only, since TLS 1.3 lets the client speak first.
pub async fn connect(addr: &str, credentials: &Credentials) -> Result<Client, ConnectError> {
    connect_for(addr, credentials, None).await
}

/// The same, with a reason that each call gives: at most 512 bytes.
///
/// # Errors
/// As [`connect`].
pub async fn connect_for(
    addr: &str,
    credentials: &Credentials,
    reason: Option<&str>,
) -> Result<Client, ConnectError> {
    connect_by(Dialer::new(addr, credentials)?, reason).await
}

/// What opens connections, each time that the client needs one.
pub trait Dial: Clone + Send + 'static {
    /// Plain text in both directions: what HTTP/2 is spoken over.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The address, for the authority of requests.
    fn uri(&self) -> Uri;

    /// A connection.
    fn dial(&self) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

/// Opens connections to a broker: TCP, then mutual TLS 1.3.
#[derive(Clone)]
pub struct Dialer {
    uri: Uri,
    host: String,
    port: u16,
    server: ServerName<'static>,
    tls: TlsConnector,
}

impl Dialer {
    /// To `addr`, as whoever these credentials name.
    ///
    /// # Errors
    /// [`ConnectError`], for an address or credentials that cannot be used.
    pub fn new(addr: &str, credentials: &Credentials) -> Result<Dialer, ConnectError> {
        let Target { uri, host, port, server } = Target::parse(addr)?;
        let tls = TlsConnector::from(Arc::new(tls_config(credentials)?));
        Ok(Dialer { uri, host, port, server, tls })
    }
}

impl Dial for Dialer {
    type Io = TlsStream<BufReader<TcpStream>>;

    fn uri(&self) -> Uri {
        self.uri.clone()
    }

    async fn dial(&self) -> io::Result<Self::Io> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await?;
        tcp.set_nodelay(true)?;
        let tcp = BufReader::with_capacity(READ, tcp);
        self.tls.connect(self.server.clone(), tcp).await
    }
}

/// The same as [`connect_for`], over connections of another kind.
///
/// # Errors
/// As [`connect`].
pub async fn connect_by(dialer: impl Dial, reason: Option<&str>) -> Result<Client, ConnectError> {
    let uri = dialer.uri();
    let dial = tower::service_fn(move |_: Uri| {
        let dialer = dialer.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(dialer.dial().await?)) }
    });
    let channel = Endpoint::from(uri)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .connect_timeout(Duration::from_secs(10))
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20))
        .connect_with_connector(dial)
        .await
        .map_err(|e| ConnectError::Transport(root_cause(&e)))?;
    let reason = Reason(reason.map(|text| MetadataValue::from_bytes(text.as_bytes())));
    Ok(JobServiceClient::with_interceptor(channel, reason)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE))
}

/// An address, taken apart.
pub(crate) struct Target {
    uri: Uri,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) server: ServerName<'static>,
}

impl Target {
    pub(crate) fn parse(addr: &str) -> Result<Target, ConnectError> {
        let fault = || ConnectError::Address(addr.into());
        let uri: Uri = format!("https://{addr}").parse().map_err(|_| fault())?;
        let (host, port) = match (uri.host(), uri.port_u16()) {
            (Some(host), Some(port)) => (host.trim_matches(['[', ']']).to_owned(), port),
            _ => return Err(fault()),
        };
        let server = ServerName::try_from(host.clone()).map_err(|_| fault())?.to_owned();
        Ok(Target { uri, host, port, server })
    }
}

/// The innermost cause of an error: transports wrap "connection refused" four layers deep.
pub fn root_cause(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// The cause of a failed call beneath its status: what TLS or the socket said, where they did.
pub fn status_cause(status: &tonic::Status) -> Option<String> {
    status.source().map(root_cause)
}

pub(crate) fn tls_config(credentials: &Credentials) -> Result<ClientConfig, ConnectError> {
    let mut roots = rustls::RootCertStore::empty();
    for ca in certificates("CA certificate", &credentials.ca)? {
        roots
            .add(ca)
            .map_err(|e| ConnectError::Pem { what: "CA certificate", detail: e.to_string() })?;
    }
    let chain = certificates("certificate", &credentials.cert)?;
    let key = PrivateKeyDer::from_pem_slice(&credentials.key).map_err(|e| pem_error("key", &e))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(ConnectError::Identity)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(ConnectError::Identity)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// A number for the address and the credentials: of others it is another one.
pub fn fingerprint(addr: &str, credentials: &Credentials) -> String {
    // Every one of TLS 1.3 is one.
    let Some(suite) = TLS13_AES_128_GCM_SHA256.tls13() else { return String::new() };
    let mut hash = suite.common.hash_provider.start();
    for part in [addr.as_bytes(), &credentials.ca, &credentials.cert, &credentials.key] {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finish().as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// What is wrong with the dates of the caller's own certificate by this machine's clock, if anything is.
/// A broker that refuses it says no more than "expired", also of one that is not valid yet: RFC 8446,
/// section 6.2.
pub fn own_dates(credentials: &Credentials) -> Option<CertificateError> {
    dates_at(credentials, UnixTime::now())
}

/// Beginning and end of the caller's own certificate, if it ends `within` this time from now and has not ended.
pub fn own_end(credentials: &Credentials, within: Duration) -> Option<(SystemTime, SystemTime)> {
    let now = UnixTime::now();
    let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let later = dates_at(credentials, at(now.as_secs().checked_add(within.as_secs())?))?;
    let CertificateError::ExpiredContext { not_after, .. } = later else { return None };
    // No certificate was valid then.
    let earlier = dates_at(credentials, at(0))?;
    let CertificateError::NotValidYetContext { not_before, .. } = earlier else { return None };
    let system = |time: UnixTime| SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs());
    (not_after > now).then(|| (system(not_before), system(not_after)))
}

fn dates_at(credentials: &Credentials, time: UnixTime) -> Option<CertificateError> {
    let mut roots = rustls::RootCertStore::empty();
    for ca in certificates("CA certificate", &credentials.ca).ok()? {
        roots.add(ca).ok()?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let chain = certificates("certificate", &credentials.cert).ok()?;
    let (leaf, rest) = chain.split_first()?;
    // The dates come before the signature: whose authority has signed it does not matter here.
    match verifier.build().ok()?.verify_client_cert(leaf, rest, time) {
        Err(rustls::Error::InvalidCertificate(fault)) => Some(fault).filter(is_of_dates),
        _ => None,
    }
}

fn is_of_dates(fault: &CertificateError) -> bool {
    use CertificateError::{ExpiredContext, NotValidYetContext};
    matches!(fault, ExpiredContext { .. } | NotValidYetContext { .. })
}

fn certificates(
    what: &'static str,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, ConnectError> {
    let certs: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| pem_error(what, &e))?;
    if certs.is_empty() {
        return Err(ConnectError::Pem { what, detail: "no certificate in it".into() });
    }
    Ok(certs)
}

fn pem_error(what: &'static str, error: &rustls_pki_types::pem::Error) -> ConnectError {
    ConnectError::Pem { what, detail: crate::pem::fault(error) }
}
