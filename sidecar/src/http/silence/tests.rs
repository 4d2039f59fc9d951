//! Over real TCP. A connection made later is closed later, so when the last one has been closed,
//! the deadline of those before it has passed.

use std::net::SocketAddr;

use axum::Router;
use axum::routing::get;
use http_body_util::Empty;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::app::fixture::{ManualClock, OFFERS, app};
use crate::config::BearerTokens;
use crate::http::api::{self, ApiState};
use crate::http::serve::Door;

const SHORT: Duration = Duration::from_millis(500);

async fn open(router: Router, next: Option<Duration>) -> SocketAddr {
    let silence = Silence { first: SHORT, next };
    let door = Door::open(([127, 0, 0, 1], 0).into(), router, silence)
        .await
        .unwrap();
    let address = door.address().unwrap();
    tokio::spawn(door.serve(CancellationToken::new(), Duration::ZERO));
    address
}

/// Sends `bytes` and nothing more; what comes until the end of the connection.
async fn silent(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // Closed with or without what was still under way.
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

struct Client {
    sender: http1::SendRequest<Empty<Bytes>>,
    connection: JoinHandle<hyper::Result<()>>,
}

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (sender, connection) = http1::handshake(stream).await.unwrap();
        Self {
            sender,
            connection: tokio::spawn(connection),
        }
    }

    /// Returns when the other side has closed the connection.
    async fn closed(self) {
        let _ = self.connection.await;
    }

    async fn ask(&mut self, token: &str) -> hyper::Result<StatusCode> {
        let request = http::Request::get("/v1/bootstrap?vm=0123456789abcdef0123456789abcdef")
            .header("host", "x")
            .header("authorization", format!("Bearer {token}"))
            .body(Empty::new())
            .unwrap();
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?.status())
    }
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed_whatever_it_begins_with() {
    let address = open(Router::new(), None).await;
    assert!(silent(address, b"").await.is_empty());
    assert!(silent(address, b"PRI * HT").await.is_empty());
    assert!(silent(address, b"GET / HTTP/1.1\r\nhost:").await.is_empty());
}

#[tokio::test]
async fn a_peer_that_only_answers_pings_of_http2_is_closed() {
    let address = open(Router::new(), None).await;
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
    let (_sender, connection): (hyper::client::conn::http2::SendRequest<Empty<Bytes>>, _) =
        handshake.await.unwrap();
    // It ends, which is all that is wanted.
    let _ = connection.await;
}

#[tokio::test]
async fn a_connection_with_a_token_stays_and_one_without_does_not() {
    let (dir, clock) = (TempDir::new().unwrap(), Arc::new(ManualClock::default()));
    let (app, _node) = app(&dir, &clock, OFFERS).await;
    let tokens = BearerTokens::new(vec!["the-right-token".to_owned()]);
    let (_keeper, tokens) = tokio::sync::watch::channel(tokens);
    let address = open(
        api::router(ApiState {
            app,
            tokens,
            strangers: super::super::strangers::Strangers::default(),
        }),
        None,
    )
    .await;
    let mut filter = Client::connect(address).await;
    assert_eq!(filter.ask("the-right-token").await.unwrap(), StatusCode::OK);
    let mut stranger = Client::connect(address).await;
    let refused = stranger.ask("another").await.unwrap();
    assert_eq!(refused, StatusCode::UNAUTHORIZED);
    stranger.closed().await;
    assert_eq!(filter.ask("the-right-token").await.unwrap(), StatusCode::OK);
}

#[tokio::test]
async fn where_no_token_is_needed_requests_have_to_go_on() {
    let router = Router::new().route("/v1/bootstrap", get(|| async { "ok" }));
    let address = open(router, Some(SHORT * 2)).await;
    let mut prober = Client::connect(address).await;
    assert_eq!(prober.ask("").await.unwrap(), StatusCode::OK);
    assert!(silent(address, b"").await.is_empty());
    assert_eq!(prober.ask("").await.unwrap(), StatusCode::OK);
    prober.closed().await;
}
