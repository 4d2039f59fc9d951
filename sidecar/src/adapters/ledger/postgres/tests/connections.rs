//! Connections that fail, and how they are made.

use std::path::Path;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, UnixStream};
use tokio_rustls::TlsAcceptor;

use super::session::DEADLINE;
use super::*;
use crate::config::{self, Sources, StoreConfig};

async fn server() -> Server {
    tokio::task::spawn_blocking(Server::start)
        .await
        .unwrap()
        .unwrap()
}

async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_goes_and_comes_back_costs_errors_and_no_claim() {
    let mut server = server().await;
    let ledger = open(&server.url("postgres")).await;
    assert_eq!(ledger.claim(claim(1, 1), YOUNG).await, Ok(Claimed::Won));
    server.stop();
    let begun = Instant::now();
    let lost = ledger.claim(claim(2, 1), YOUNG).await;
    assert!(matches!(lost, Err(LedgerError::Store(_))), "{lost:?}");
    assert!(ledger.version().await.is_err());
    assert!(begun.elapsed() < DEADLINE * 3, "{:?}", begun.elapsed());
    let server = tokio::task::spawn_blocking(move || {
        server.start_again().unwrap();
        server
    });
    let _server = server.await.unwrap();
    eventually("connected again", async || {
        ledger.claim(claim(2, 1), YOUNG).await.ok()
    })
    .await;
    assert_eq!(ledger.claim(claim(1, 2), YOUNG).await, Ok(Claimed::Busy));
    assert_eq!(ledger.claim(claim(1, 1), YOUNG).await, Ok(Claimed::Won));
}

/// A way to a server's socket that can be blocked.
async fn tunnel(server: &Server, open: Arc<tokio::sync::Semaphore>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, socket) = (listener.local_addr().unwrap().port(), server.socket());
    tokio::spawn(async move {
        while let Ok((outer, _)) = listener.accept().await {
            let (open, socket) = (Arc::clone(&open), socket.clone());
            tokio::spawn(async move {
                let inner = UnixStream::connect(socket).await.unwrap();
                let ((mut from, mut to), (mut back_from, mut back_to)) =
                    (outer.into_split(), inner.into_split());
                let answers = async {
                    let mut buffer = [0; 4_096];
                    while let Ok(count @ 1..) = back_from.read(&mut buffer).await {
                        let _pass = open.acquire().await.unwrap();
                        to.write_all(&buffer[..count]).await.unwrap();
                    }
                };
                let _ = tokio::join!(tokio::io::copy(&mut from, &mut back_to), answers);
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_does_not_answer_is_an_error_in_time() {
    let server = server().await;
    let open_way = Arc::new(tokio::sync::Semaphore::new(1_000));
    let port = tunnel(&server, Arc::clone(&open_way)).await;
    let ledger = open(&format!("postgres://postgres@127.0.0.1:{port}/postgres")).await;
    ledger.install_first_key(key(1), 1).await.unwrap();
    let blocked = open_way.acquire_many(1_000).await.unwrap();
    let begun = Instant::now();
    let answers = tokio::join!(
        ledger.claim(claim(1, 1), YOUNG),
        ledger.record_offers(batch(vec![offer(1)])),
        ledger.version(),
    );
    assert!(begun.elapsed() < DEADLINE * 2, "{:?}", begun.elapsed());
    assert!(answers.0.is_err() && answers.1.is_err() && answers.2.is_err());
    drop(blocked);
    eventually("answers again", async || ledger.version().await.ok()).await;
    // Whether the attempt won while nobody heard of it does not matter: it may ask again.
    assert_eq!(ledger.claim(claim(1, 1), YOUNG).await, Ok(Claimed::Won));
}

/// Who stops in the middle of a transaction, such as a frozen machine, holds nobody up for long.
#[tokio::test]
async fn a_lock_of_a_sidecar_that_stopped_is_freed() {
    let url = database().await;
    let (frozen, ledger) = (open(&url).await, open(&url).await);
    let mut client = frozen.pool.get().await.unwrap();
    let tx = client.transaction().await.unwrap();
    statements::alone(&tx, statements::Lock::Claims)
        .await
        .unwrap();
    let begun = Instant::now();
    eventually("freed", async || {
        ledger.claim(claim(1, 1), YOUNG).await.ok()
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(tx.commit().await.is_err(), "its transaction is over");
}

const CA: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/ring2/fixtures/server.pem"
);
const CA_KEY: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/ring2/fixtures/server.key"
);
const OTHER_CA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ring2/fixtures/one.pem");

/// What a server with TLS does, before one that has none.
async fn tls_front(server: &Server) -> u16 {
    let certificate = CertificateDer::from_pem_file(CA).unwrap();
    let key = PrivateKeyDer::from_pem_file(CA_KEY).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let (port, socket) = (listener.local_addr().unwrap().port(), server.socket());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (acceptor, socket) = (acceptor.clone(), socket.clone());
            tokio::spawn(async move {
                let mut request = [0; 8];
                stream.read_exact(&mut request).await.unwrap();
                assert_eq!(request, [0, 0, 0, 8, 4, 210, 22, 47], "SSLRequest");
                stream.write_all(b"S").await.unwrap();
                let Ok(mut secured) = acceptor.accept(stream).await else {
                    return;
                };
                let mut inner = UnixStream::connect(socket).await.unwrap();
                let _ = copy_bidirectional(&mut secured, &mut inner).await;
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_to_the_server_that_the_certificate_authority_vouches_for() {
    let server = server().await;
    let port = tls_front(&server).await;
    let by = |host: &str, ca_file: &str| {
        let url = format!("postgres://postgres@{host}:{port}/postgres");
        let config = PostgresConfig {
            tls: true,
            ca_file: Some(ca_file.into()),
            ..config(&url)
        };
        async move { PostgresLedger::open(&config, Migration::ToLatest).await }
    };
    let ledger = by("localhost", CA).await.unwrap();
    assert!(ledger.version().await.is_ok());
    let foreign = by("localhost", OTHER_CA).await.unwrap_err().to_string();
    assert!(foreign.contains("certificate"), "{foreign}");
    let misnamed = by("127.0.0.2", CA).await.unwrap_err().to_string();
    assert!(misnamed.contains("certificate"), "{misnamed}");
    let no_roots = by("localhost", CA_KEY).await.unwrap_err().to_string();
    assert!(no_roots.contains("no certificate authority"), "{no_roots}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_is_refused_where_tls_is_wanted() {
    let server = server().await;
    let port = tunnel(&server, Arc::new(tokio::sync::Semaphore::new(1_000))).await;
    let url = format!("postgres://postgres@localhost:{port}/postgres");
    let secured = PostgresConfig {
        tls: true,
        ca_file: Some(CA.into()),
        ..config(&url)
    };
    let refused = PostgresLedger::open(&secured, Migration::ToLatest).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("does not support TLS"), "{refused}");
}

fn with_password_file(url: &str, file: &Path) -> PostgresConfig {
    let yaml = format!(
        "lightning: {{ dev: {{}} }}\nledger:\n  postgres: {{ url: '{url}', passwordFile: '{}' }}\n",
        file.display()
    );
    let sources = Sources {
        file: yaml,
        ..Sources::default()
    };
    let token =
        |name: &str| (name == "BOLTGATE_TOKEN").then(|| "a-token-of-some-length".to_owned());
    match config::load(&sources, token).unwrap().ledger.store {
        StoreConfig::Postgres(config) => *config,
        StoreConfig::Sqlite(_) => panic!("no database"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_password_is_read_for_the_next_connection_and_never_shown() {
    let server = server().await;
    let admin = server.url("postgres");
    execute(
        &admin,
        "CREATE ROLE shop LOGIN PASSWORD 'first-secret'; GRANT ALL ON SCHEMA public TO shop",
    )
    .await;
    let rules = "local all postgres trust\nlocal all all scram-sha-256\n";
    std::fs::write(server.data().join("pg_hba.conf"), rules).unwrap();
    execute(&admin, "SELECT pg_reload_conf()").await;
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "first-secret\n").unwrap();
    let config = with_password_file(&admin.replace("postgres@", "shop@"), &file);
    assert!(!format!("{config:?}").contains("first-secret"));
    let ledger = eventually("the rules are read", async || {
        PostgresLedger::open(&config, Migration::ToLatest)
            .await
            .ok()
    })
    .await;
    execute(&admin, "ALTER ROLE shop PASSWORD 'second-secret'").await;
    let lose = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'shop'";
    execute(&admin, lose).await;
    let refused = eventually("refused", async || ledger.version().await.err()).await;
    for secret in ["first-secret", "second-secret"] {
        assert!(!refused.to_string().contains(secret), "{refused}");
    }
    std::fs::write(&file, "second-secret\n").unwrap();
    eventually("with the new one", async || ledger.version().await.ok()).await;
}
