//! The connection: TLS with exactly one accepted certificate, and HTTP/2 pings.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::LndSettings;
use crate::domain::ports::LightningError;

const CONNECT: Duration = Duration::from_secs(5);
/// LND tolerates a ping every 5 s while a stream is open.
const PING_EVERY: Duration = Duration::from_secs(15);
const PING_ANSWER: Duration = Duration::from_secs(5);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A channel that connects when used and again after each failure.
pub(super) fn channel(settings: &LndSettings) -> Result<Channel, LightningError> {
    let uri = &settings.endpoint;
    let unusable = |detail: &str| LightningError::Refused {
        rpc: "connect",
        detail: format!("endpoint {uri}: {detail}"),
    };
    let authority = uri.authority().ok_or_else(|| unusable("no host"))?.clone();
    let host = uri
        .host()
        .unwrap_or_default()
        .trim_matches(['[', ']'])
        .to_owned();
    let port = authority.port_u16().unwrap_or(10009);
    // TLS is ours, so tonic sees plain HTTP; `origin` keeps the scheme that goes out right.
    let plain = format!("http://{authority}");
    let endpoint = Endpoint::from_shared(plain)
        .map_err(|error| unusable(&error.to_string()))?
        .origin(uri.clone())
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWER);
    let certificate = settings.tls_certificate_file.clone().map(Arc::new);
    let connect = service_fn(move |_: http::Uri| {
        let (host, certificate) = (host.clone(), certificate.clone());
        async move {
            let stream: Box<dyn Stream> = match certificate {
                None => Box::new(tcp(&host, port).await?),
                Some(file) => tls(&host, port, &file).await?,
            };
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    Ok(endpoint.connect_with_connector_lazy(connect))
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The file is read for every connection, so that a certificate that LND has made anew is found
/// at the first handshake after it was copied here.
async fn tls(host: &str, port: u16, file: &Path) -> io::Result<Box<dyn Stream>> {
    let pem = tokio::fs::read(file)
        .await
        .map_err(|error| named(file, &error))?;
    let config = pinned(&pem).map_err(|error| named(file, &error))?;
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = tcp(host, port).await?;
    Ok(Box::new(
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await?,
    ))
}

fn named(file: &Path, error: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", file.display()))
}

fn pinned(pem: &[u8]) -> io::Result<ClientConfig> {
    let certificate = CertificateDer::from_pem_slice(pem).map_err(io::Error::other)?;
    let provider = Arc::new(ring::default_provider());
    let verifier = PinnedCertificate::new(certificate, &provider);
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Accepts one certificate, byte for byte, whatever name or dates stand in it: LND signs its own
/// and calls it a certificate authority, which ordinary verification refuses.
#[derive(Debug)]
struct PinnedCertificate {
    certificate: CertificateDer<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PinnedCertificate {
    fn new(certificate: CertificateDer<'static>, provider: &CryptoProvider) -> Self {
        Self {
            certificate,
            algorithms: provider.signature_verification_algorithms,
        }
    }
}

impl ServerCertVerifier for PinnedCertificate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *end_entity == self.certificate {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General(
            "the node's certificate is not the one in the file".to_owned(),
        ))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
