//! A real gRPC server that keeps the metadata of every call.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use futures_util::stream::{self, Stream, StreamExt};
use std::pin::Pin;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::metadata::MetadataMap;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::pb::weather_server::{Weather, WeatherServer};
use crate::pb::{Place, Sky};

/// Answers of one `Watch`.
pub(crate) const HOURS: i32 = 5;

/// A running server; stopped when dropped.
pub(crate) struct GrpcUpstream {
    address: SocketAddr,
    calls: Arc<Mutex<Vec<MetadataMap>>>,
    task: JoinHandle<()>,
}

impl GrpcUpstream {
    /// Starts it on a free port.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let calls = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&calls);
        let service =
            InterceptedService::new(WeatherServer::new(Service), move |request: Request<()>| {
                let mut all = kept.lock().unwrap_or_else(PoisonError::into_inner);
                all.push(request.metadata().clone());
                Ok(request)
            });
        let task = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let _ = Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await;
        });
        Ok(Self {
            address,
            calls,
            task,
        })
    }

    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Metadata of all calls so far.
    pub(crate) fn calls(&self) -> Vec<MetadataMap> {
        self.calls
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Metadata of the newest call.
    pub(crate) fn last(&self) -> anyhow::Result<MetadataMap> {
        self.calls().pop().context("no call has arrived")
    }
}

impl Drop for GrpcUpstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Service;

fn sky(place: &str, celsius: i32) -> Sky {
    Sky {
        place: place.to_owned(),
        celsius,
    }
}

type Skies = Pin<Box<dyn Stream<Item = Result<Sky, Status>> + Send>>;

#[tonic::async_trait]
impl Weather for Service {
    async fn forecast(&self, request: Request<Place>) -> Result<Response<Sky>, Status> {
        Ok(Response::new(sky(&request.get_ref().name, 4)))
    }

    type WatchStream = Skies;

    async fn watch(&self, request: Request<Place>) -> Result<Response<Skies>, Status> {
        let name = request.into_inner().name;
        let hours = stream::iter(0..HOURS).map(move |hour| Ok(sky(&name, hour)));
        Ok(Response::new(hours.boxed()))
    }

    type TourStream = Skies;

    async fn tour(&self, request: Request<Streaming<Place>>) -> Result<Response<Skies>, Status> {
        let places = request.into_inner();
        Ok(Response::new(
            places.map(|place| Ok(sky(&place?.name, 4))).boxed(),
        ))
    }
}
