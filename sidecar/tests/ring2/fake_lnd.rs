//! A fake of LND's gRPC interface with LND's quirks: no headers before the first event of a
//! subscription, nearly every error as code 2, another service while the wallet is locked.

mod router;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use sidecar::adapters::lightning::lnd::{invoicesrpc, lnrpc, routerrpc};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::{broadcast, oneshot};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use invoicesrpc::invoices_server::{Invoices, InvoicesServer};
use lnrpc::invoice::InvoiceState;
use lnrpc::lightning_server::{Lightning, LightningServer};
use lnrpc::state_server::{State, StateServer};
use routerrpc::router_server::RouterServer;

pub(crate) use self::router::Routing;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mode {
    Ready,
    Locked,
    Hanging,
}

/// What stays when the fake is "killed" and started again.
#[derive(Clone)]
pub(crate) struct FakeLnd(Arc<Inner>);

struct Inner {
    mode: Mutex<Mode>,
    macaroon: Mutex<Option<String>>,
    invoices: Mutex<BTreeMap<Vec<u8>, lnrpc::Invoice>>,
    payments: Mutex<router::Payments>,
    settled: broadcast::Sender<lnrpc::Invoice>,
}

/// The fake being served, on a thread of its own, so that all its connections end with it.
pub(crate) struct Serving {
    pub(crate) address: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    /// As `kill -9`: connections break and the port is free again.
    pub(crate) async fn kill(mut self) {
        self.end.take();
        let thread = self.thread.take().unwrap();
        tokio::task::spawn_blocking(move || thread.join().unwrap())
            .await
            .unwrap();
    }
}

impl FakeLnd {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            mode: Mutex::new(Mode::Ready),
            macaroon: Mutex::default(),
            invoices: Mutex::default(),
            payments: Mutex::default(),
            settled: broadcast::Sender::new(64),
        }))
    }

    pub(crate) fn set(&self, mode: Mode) {
        *self.0.mode.lock().unwrap() = mode;
    }

    /// Only this macaroon, in hex, is accepted.
    pub(crate) fn require_macaroon(&self, hex: &str) {
        *self.0.macaroon.lock().unwrap() = Some(hex.to_owned());
    }

    pub(crate) async fn serve(&self, address: &str, identity: Option<Identity>) -> Serving {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = Server::builder();
        if let Some(identity) = identity {
            server = server
                .tls_config(ServerTlsConfig::new().identity(identity))
                .unwrap();
        }
        let router = server
            .add_service(LightningServer::new(self.clone()))
            .add_service(InvoicesServer::new(self.clone()))
            .add_service(RouterServer::new(self.clone()))
            .add_service(StateServer::new(self.clone()));
        let listener = listener.into_std().unwrap();
        let (end, ended) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                let incoming = TcpListenerStream::new(listener);
                tokio::select! {
                    _ = router.serve_with_incoming(incoming) => {}
                    _ = ended => {}
                }
            });
        });
        Serving {
            address,
            end: Some(end),
            thread: Some(thread),
        }
    }

    /// Somebody pays.
    pub(crate) fn pay(&self, hash: &str) {
        let hash: protocol::hash::PaymentHash = hash.parse().unwrap();
        let mut invoices = self.0.invoices.lock().unwrap();
        let index = invoices
            .values()
            .map(|invoice| invoice.settle_index)
            .max()
            .unwrap_or(0)
            + 1;
        let invoice = invoices.get_mut(hash.0.as_slice()).unwrap();
        assert_eq!(invoice.state(), InvoiceState::Open);
        invoice.set_state(InvoiceState::Settled);
        invoice.settle_index = index;
        invoice.settle_date = 1_800_000_000;
        invoice.amt_paid_msat = invoice.value_msat;
        let _ = self.0.settled.send(invoice.clone());
    }

    /// Settles an invoice that is none of ours.
    pub(crate) fn other_business(&self, n: u8) {
        let invoice = lnrpc::Invoice {
            r_hash: vec![n; 32],
            value_msat: 1,
            ..lnrpc::Invoice::default()
        };
        self.0.invoices.lock().unwrap().insert(vec![n; 32], invoice);
        self.pay(&protocol::hash::PaymentHash([n; 32]).to_string());
    }

    pub(crate) fn count(&self, state: InvoiceState) -> usize {
        let invoices = self.0.invoices.lock().unwrap();
        invoices
            .values()
            .filter(|invoice| invoice.state() == state)
            .count()
    }

    async fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let mode = *self.0.mode.lock().unwrap();
        match mode {
            Mode::Hanging => std::future::pending().await,
            Mode::Locked => Err(Status::unknown(
                "wallet locked, unlock it to enable full RPC access",
            )),
            Mode::Ready => {
                let wanted = self.0.macaroon.lock().unwrap().clone();
                let shown = request
                    .metadata()
                    .get("macaroon")
                    .and_then(|v| v.to_str().ok());
                match (wanted, shown) {
                    (_, None) => Err(Status::unknown("expected 1 macaroon, got 0")),
                    (Some(wanted), Some(shown)) if wanted != shown => {
                        Err(Status::unknown("verification failed: signature mismatch"))
                    }
                    _ => Ok(()),
                }
            }
        }
    }
}

#[tonic::async_trait]
impl State for FakeLnd {
    async fn get_state(
        &self,
        _: Request<lnrpc::GetStateRequest>,
    ) -> Result<Response<lnrpc::GetStateResponse>, Status> {
        let mode = *self.0.mode.lock().unwrap();
        let state = match mode {
            Mode::Hanging => std::future::pending().await,
            Mode::Locked => lnrpc::WalletState::Locked,
            Mode::Ready => lnrpc::WalletState::ServerActive,
        };
        Ok(Response::new(lnrpc::GetStateResponse {
            state: state.into(),
        }))
    }
}

#[tonic::async_trait]
impl Invoices for FakeLnd {
    async fn cancel_invoice(
        &self,
        request: Request<invoicesrpc::CancelInvoiceMsg>,
    ) -> Result<Response<invoicesrpc::CancelInvoiceResp>, Status> {
        self.admit(&request).await?;
        let mut invoices = self.0.invoices.lock().unwrap();
        let invoice = invoices
            .get_mut(&request.into_inner().payment_hash)
            .ok_or_else(|| Status::unknown("unable to locate invoice"))?;
        match invoice.state() {
            InvoiceState::Settled => Err(Status::unknown("invoice already settled")),
            _ => {
                invoice.set_state(InvoiceState::Canceled);
                Ok(Response::new(invoicesrpc::CancelInvoiceResp {}))
            }
        }
    }
}

#[tonic::async_trait]
impl Lightning for FakeLnd {
    type SubscribeInvoicesStream =
        Pin<Box<dyn Stream<Item = Result<lnrpc::Invoice, Status>> + Send>>;

    async fn get_info(
        &self,
        request: Request<lnrpc::GetInfoRequest>,
    ) -> Result<Response<lnrpc::GetInfoResponse>, Status> {
        self.admit(&request).await?;
        Ok(Response::new(lnrpc::GetInfoResponse {
            identity_pubkey: format!("02{}", "ab".repeat(32)),
            chains: vec![lnrpc::Chain {
                network: "regtest".to_owned(),
            }],
            ..lnrpc::GetInfoResponse::default()
        }))
    }

    async fn add_invoice(
        &self,
        request: Request<lnrpc::Invoice>,
    ) -> Result<Response<lnrpc::AddInvoiceResponse>, Status> {
        self.admit(&request).await?;
        let mut invoice = request.into_inner();
        let mut invoices = self.0.invoices.lock().unwrap();
        let mut hash = [0xEE; 32];
        hash[..8].copy_from_slice(&(invoices.len() as u64).to_be_bytes());
        invoice.r_hash = hash.to_vec();
        invoice.payment_request = format!("lnbcrtfake{}", invoices.len());
        invoices.insert(hash.to_vec(), invoice.clone());
        Ok(Response::new(lnrpc::AddInvoiceResponse {
            r_hash: invoice.r_hash,
            payment_request: invoice.payment_request,
            add_index: invoices.len() as u64,
        }))
    }

    async fn lookup_invoice(
        &self,
        request: Request<lnrpc::PaymentHash>,
    ) -> Result<Response<lnrpc::Invoice>, Status> {
        self.admit(&request).await?;
        let invoices = self.0.invoices.lock().unwrap();
        let invoice = invoices.get(&request.into_inner().r_hash);
        let invoice = invoice.ok_or_else(|| Status::not_found("unable to locate invoice"))?;
        Ok(Response::new(invoice.clone()))
    }

    async fn subscribe_invoices(
        &self,
        request: Request<lnrpc::InvoiceSubscription>,
    ) -> Result<Response<Self::SubscribeInvoicesStream>, Status> {
        self.admit(&request).await?;
        let since = request.into_inner().settle_index;
        let mut fresh = self.0.settled.subscribe();
        let mut past: Vec<_> = {
            let invoices = self.0.invoices.lock().unwrap();
            let is_past = |i: &&lnrpc::Invoice| since > 0 && i.settle_index > since;
            invoices.values().filter(is_past).cloned().collect()
        };
        past.sort_by_key(|invoice| invoice.settle_index);
        if past.is_empty() {
            // LND's headers go out with the first event.
            match fresh.recv().await {
                Ok(invoice) => past.push(invoice),
                Err(_) => return Err(Status::unknown("shutting down")),
            }
        }
        let past = tokio_stream::iter(past.into_iter().map(Ok));
        let live = tokio_stream::wrappers::BroadcastStream::new(fresh)
            .filter_map(Result::ok)
            .map(Ok);
        Ok(Response::new(Box::pin(past.chain(live))))
    }
}
