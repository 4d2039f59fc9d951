//! Serving connections: HTTP/1.1 and HTTP/2 with prior knowledge, or TLS; and their end.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::silence::{Proof, Silence};
use super::strangers::Peer;

const HANDSHAKE: Duration = Duration::from_secs(10);
/// Also the longest that a connection stays open between two requests; long, since a filter's
/// request that meets the closing of its connection is lost.
const HEADERS: Duration = Duration::from_secs(300);
/// A dead peer is found this soon.
const PING_EVERY: Duration = Duration::from_secs(20);
const MOST_CONNECTIONS: usize = 4_096;
const MOST_STREAMS: u32 = 1_024;
/// After an error of `accept`, such as too many open files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// One listener and what answers there.
pub struct Door {
    listener: TcpListener,
    router: Router,
    tls: Option<watch::Receiver<TlsAcceptor>>,
    silence: Silence,
}

impl Door {
    /// Binds. `silence`: how long a connection may stay without a request.
    ///
    /// # Errors
    /// The address is taken or not ours.
    pub async fn open(address: SocketAddr, router: Router, silence: Silence) -> io::Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))?;
        Ok(Self {
            listener,
            router,
            tls: None,
            silence,
        })
    }

    /// From now on by TLS; each new connection by what `tls` holds then.
    #[must_use]
    pub fn with_tls(mut self, tls: watch::Receiver<TlsAcceptor>) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Where it is; of use when port 0 was asked for.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`, then accepts nothing more and lets what is in flight end, as long as
    /// `patience`.
    pub async fn serve(self, stop: CancellationToken, patience: Duration) {
        let connections = GracefulShutdown::new();
        let permits = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        while let Some((stream, peer, permit)) = self.accept(&stop, &permits).await {
            let proof = Proof::default();
            let service = self.service(proof.clone(), Peer(peer));
            let (watcher, silence) = (connections.watcher(), self.silence);
            let tls = self.tls.as_ref().map(|tls| tls.borrow().clone());
            tokio::spawn(async move {
                let _permit = permit;
                let served = async {
                    let Some(io) = established(stream, tls).await else {
                        return;
                    };
                    let builder = builder();
                    let connection = builder.serve_connection(io, service).into_owned();
                    if let Err(error) = watcher.watch(connection).await {
                        tracing::debug!(%error, "connection ended");
                    }
                };
                tokio::select! {
                    () = served => {}
                    () = silence.too_long(&proof) => tracing::debug!("silent connection closed"),
                }
            });
        }
        drop(self.listener);
        if tokio::time::timeout(patience, connections.shutdown())
            .await
            .is_err()
        {
            tracing::warn!("some requests did not end in time");
        }
    }

    /// What answers on one connection, whose requests carry its proof and its other end.
    fn service(
        &self,
        proof: Proof,
        peer: Peer,
    ) -> impl Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send>
    + Send
    + 'static
    + use<> {
        let router = TowerToHyperService::new(self.router.clone());
        let any_request_proves = self.silence.any_request_proves();
        service_fn(move |mut request: Request<Incoming>| {
            if any_request_proves {
                proof.give();
            }
            request.extensions_mut().insert(proof.clone());
            request.extensions_mut().insert(peer);
            router.call(request)
        })
    }

    async fn accept(
        &self,
        stop: &CancellationToken,
        permits: &Arc<Semaphore>,
    ) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let next = async {
            let permit = Arc::clone(permits).acquire_owned().await.ok()?;
            loop {
                match self.listener.accept().await {
                    Ok((stream, peer)) => return Some((stream, peer, permit)),
                    Err(error) => {
                        tracing::warn!(%error, "accept failed");
                        tokio::time::sleep(ACCEPT_AGAIN).await;
                    }
                }
            }
        };
        stop.run_until_cancelled(next).await.flatten()
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn established(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
) -> Option<TokioIo<Box<dyn Stream>>> {
    // Fails only on a connection that is gone already.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else {
        return Some(TokioIo::new(Box::new(stream)));
    };
    match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => Some(TokioIo::new(Box::new(stream))),
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .max_concurrent_streams(MOST_STREAMS);
    builder
}
