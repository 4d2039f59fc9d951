//! Secrets that change on disk under a serving sidecar.

use std::path::Path;
use std::sync::Arc;

use hyper::StatusCode;
use protocol::api::BOOTSTRAP_PATH;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::process::{Program, write_config};
use crate::support::{Api, TOKEN, VM, eventually};

const OLD: (&str, &str) = (
    include_str!("fixtures/server.pem"),
    include_str!("fixtures/server.key"),
);
const NEW: (&str, &str) = (
    include_str!("fixtures/renewed.pem"),
    include_str!("fixtures/renewed.key"),
);
const NEW_TOKEN: &str = "ring2-bearer-token-2";

/// Waits until the sidecar has logged for the `count`th time that it keeps what it had.
async fn kept(dir: &Path, count: usize) {
    eventually("a broken file is logged", async || {
        let log = std::fs::read_to_string(dir.join("log")).unwrap();
        (log.matches("what was good before stays").count() == count).then_some(())
    })
    .await;
}

async fn status(api: Api, token: &str) -> StatusCode {
    let mut request = api.request("GET", &format!("{BOOTSTRAP_PATH}?vm={VM}"), "");
    let bearer = format!("Bearer {token}").parse().unwrap();
    request.headers_mut().insert("authorization", bearer);
    api.send(request).await.status
}

#[tokio::test]
async fn a_token_is_changed_without_a_restart_and_a_broken_file_changes_nothing() {
    let dir = TempDir::new().unwrap();
    write_config(dir.path());
    let program = Program::start(dir.path()).await;
    assert_eq!(status(program.api, TOKEN).await, StatusCode::OK);
    assert_eq!(
        status(program.api, NEW_TOKEN).await,
        StatusCode::UNAUTHORIZED
    );

    let file = dir.path().join("token");
    std::fs::write(&file, "too short").unwrap();
    kept(dir.path(), 1).await;
    assert_eq!(status(program.api, TOKEN).await, StatusCode::OK);
    assert_eq!(
        status(program.api, "too short").await,
        StatusCode::UNAUTHORIZED
    );
    std::fs::remove_file(&file).unwrap();
    kept(dir.path(), 2).await;
    assert_eq!(status(program.api, TOKEN).await, StatusCode::OK);

    std::fs::write(&file, format!("{NEW_TOKEN}\n")).unwrap();
    eventually("the new token", async || {
        (status(program.api, NEW_TOKEN).await == StatusCode::OK).then_some(())
    })
    .await;
    assert_eq!(status(program.api, TOKEN).await, StatusCode::UNAUTHORIZED);
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    for secret in [TOKEN, NEW_TOKEN, "too short"] {
        assert!(!log.contains(secret), "a token is in the log");
    }
}

/// Asks by TLS, trusting one certificate; gives the answer, or why there is none.
async fn ask(api: Api, certificate: &str) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TcpStream::connect(api.0).await?;
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?;
    let request = format!(
        "GET {BOOTSTRAP_PATH}?vm={VM} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n\
         connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

async fn serves(api: Api, certificate: &str) -> bool {
    let answer = ask(api, certificate).await;
    answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

#[tokio::test]
async fn a_certificate_is_renewed_without_a_restart_and_a_broken_one_changes_nothing() {
    let dir = TempDir::new().unwrap();
    write_config(dir.path());
    let at = |name: &str| dir.path().join(name);
    let mut config = std::fs::read_to_string(at("config.yaml")).unwrap();
    config.push_str("tls: { certFile: server.pem, keyFile: server.key }\n");
    std::fs::write(at("config.yaml"), config).unwrap();
    std::fs::write(at("server.pem"), OLD.0).unwrap();
    std::fs::write(at("server.key"), OLD.1).unwrap();
    let program = Program::start(dir.path()).await;
    assert!(serves(program.api, OLD.0).await);

    // No certificate; then one without its key.
    std::fs::write(at("server.pem"), &NEW.0[..NEW.0.len() / 2]).unwrap();
    kept(dir.path(), 1).await;
    assert!(serves(program.api, OLD.0).await);
    std::fs::write(at("server.pem"), NEW.0).unwrap();
    kept(dir.path(), 2).await;
    assert!(serves(program.api, OLD.0).await);

    std::fs::write(at("server.key"), NEW.1).unwrap();
    eventually("the new certificate", async || {
        serves(program.api, NEW.0).await.then_some(())
    })
    .await;
    assert!(!serves(program.api, OLD.0).await);
}
