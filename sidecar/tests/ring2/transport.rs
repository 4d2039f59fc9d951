//! TLS on both sides.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use sidecar::adapters::lightning::lnd::{LndNode, LndSettings};
use sidecar::adapters::system::SystemClock;
use sidecar::domain::invoice::NodeStatus;
use sidecar::domain::ports::Lightning as _;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::Identity;

use crate::fake_lnd::FakeLnd;
use crate::support::{Sidecar, TOKEN, VM, eventually};

const ONE: (&str, &str) = (
    include_str!("fixtures/one.pem"),
    include_str!("fixtures/one.key"),
);
const OTHER: &str = include_str!("fixtures/two.pem");
const SERVER: (&str, &str) = (
    include_str!("fixtures/server.pem"),
    include_str!("fixtures/server.key"),
);

#[tokio::test]
async fn exactly_the_certificate_in_the_file_is_accepted_and_a_new_one_is_read() {
    let lnd = FakeLnd::new();
    let serving = lnd
        .serve("127.0.0.1:0", Some(Identity::from_pem(ONE.0, ONE.1)))
        .await;
    let dir = TempDir::new().unwrap();
    let (certificate, macaroon) = (dir.path().join("tls.cert"), dir.path().join("macaroon"));
    std::fs::write(&certificate, OTHER).unwrap();
    std::fs::write(&macaroon, "0201").unwrap();
    let settings = LndSettings {
        endpoint: format!("https://{}", serving.address).parse().unwrap(),
        tls_certificate_file: Some(certificate.clone()),
        macaroon_file: macaroon,
        route_hints: false,
        deadline: Duration::from_secs(2),
    };
    let node = LndNode::new(settings, Arc::new(SystemClock::new())).unwrap();
    assert_eq!(
        node.status().await,
        NodeStatus::Unreachable,
        "another certificate"
    );
    std::fs::write(&certificate, ONE.0).unwrap();
    eventually("the new certificate", async || {
        (node.status().await == NodeStatus::Ready).then_some(())
    })
    .await;
}

#[tokio::test]
async fn filters_are_served_by_tls() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("server.pem"), SERVER.0).unwrap();
    std::fs::write(dir.path().join("server.key"), SERVER.1).unwrap();
    let at = dir.path().display().to_string();
    let tls = format!("tls: {{ certFile: '{at}/server.pem', keyFile: '{at}/server.key' }}\n");
    let sidecar = Sidecar::dev_in(dir, "{ listen: 127.0.0.1:0 }", &tls).await;

    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(SERVER.0.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TcpStream::connect(sidecar.api.0).await.unwrap();
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap();
    let request = format!(
        "GET /v1/bootstrap?vm={VM} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n\
         connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
