//! LND over gRPC.
//!
//! Every connection pins exactly the certificate in the operator's file, read anew each time
//! ([`transport`]), and every call carries a baked macaroon, read anew when the node refuses it
//! ([`credentials`]). Each unary call has a deadline; the subscription is kept honest by HTTP/2
//! pings. Reconnecting after a failure is the caller's loop; the channel itself connects lazily.

mod credentials;
mod payments;
mod status;
mod transport;

use std::path::PathBuf;
use std::time::Duration;

use protocol::amount::Msat;
use protocol::encoding::hex_decode;
use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::Request;
use tonic::transport::Channel;

use self::credentials::MacaroonFile;
use self::lnrpc::invoice::InvoiceState as LndState;
use self::lnrpc::lightning_client::LightningClient;
use self::lnrpc::state_client::StateClient;
use crate::domain::invoice::{
    Cancellation, Invoice, InvoiceRequest, InvoiceState, NodeId, NodeInfo, NodeStatus, Settlement,
    payee_of,
};
use crate::domain::payment::{PaymentOrder, PaymentState};
use crate::domain::ports::{Clock, Lightning, LightningError, Settlements};

/// LND's main interface and its wallet state service.
#[allow(missing_docs, clippy::all, unreachable_pub, unused_qualifications)]
pub mod lnrpc {
    tonic::include_proto!("lnrpc");
}

/// LND's invoices sub-server.
#[allow(missing_docs, clippy::all, unreachable_pub, unused_qualifications)]
pub mod invoicesrpc {
    tonic::include_proto!("invoicesrpc");
}

/// LND's router, which pays.
#[allow(missing_docs, clippy::all, unreachable_pub, unused_qualifications)]
pub mod routerrpc {
    tonic::include_proto!("routerrpc");
}

/// How to reach a node.
#[derive(Clone, Debug)]
pub struct LndSettings {
    /// `https://host:port`, or `http://` on loopback for a proxy that terminates TLS.
    pub endpoint: http::Uri,
    /// The node's own certificate, PEM. Needed for `https`.
    pub tls_certificate_file: Option<PathBuf>,
    /// A baked macaroon, binary or hex.
    pub macaroon_file: PathBuf,
    /// Invoices carry route hints for private channels.
    pub route_hints: bool,
    /// Deadline of each call.
    pub deadline: Duration,
}

/// Settlements that wait here for the ledger; more wait in LND.
const SETTLEMENTS_AHEAD: usize = 256;

/// A node of LND.
#[derive(Clone)]
pub struct LndNode {
    channel: Channel,
    macaroon: MacaroonFile,
    route_hints: bool,
    deadline: Duration,
    clock: std::sync::Arc<dyn Clock>,
}

impl LndNode {
    /// Connects when first used.
    ///
    /// # Errors
    /// The endpoint is not one.
    pub fn new(
        settings: LndSettings,
        clock: std::sync::Arc<dyn Clock>,
    ) -> Result<Self, LightningError> {
        Ok(Self {
            channel: transport::channel(&settings)?,
            macaroon: MacaroonFile::new(settings.macaroon_file),
            route_hints: settings.route_hints,
            deadline: settings.deadline,
            clock,
        })
    }

    fn lightning(&self) -> LightningClient<Channel> {
        LightningClient::new(self.channel.clone())
    }

    /// One unary call with macaroon and deadline.
    async fn call<Q, A>(
        &self,
        rpc: &'static str,
        message: Q,
        send: impl AsyncFnOnce(Request<Q>) -> Result<tonic::Response<A>, tonic::Status>,
    ) -> Result<A, LightningError> {
        self.call_within(self.deadline, rpc, message, send).await
    }

    /// The same with a deadline of its own.
    async fn call_within<Q, A>(
        &self,
        deadline: Duration,
        rpc: &'static str,
        message: Q,
        send: impl AsyncFnOnce(Request<Q>) -> Result<tonic::Response<A>, tonic::Status>,
    ) -> Result<A, LightningError> {
        let mut request = Request::new(message);
        request.set_timeout(deadline);
        request
            .metadata_mut()
            .insert("macaroon", self.macaroon.value(rpc).await?);
        let answer = tokio::time::timeout(deadline, send(request)).await;
        let result = answer.map_err(|_| LightningError::Timeout { rpc })?;
        result.map(tonic::Response::into_inner).map_err(|status| {
            let error = status::to_error(rpc, &status);
            if matches!(
                error,
                LightningError::Unavailable {
                    status: NodeStatus::Unauthorized,
                    ..
                }
            ) {
                self.macaroon.forget();
            }
            error
        })
    }
}

impl Lightning for LndNode {
    type Settlements = LndSettlements;

    async fn add_invoice(&self, request: InvoiceRequest) -> Result<Invoice, LightningError> {
        let rpc = "AddInvoice";
        let asked = self.clock.now();
        let message = lnrpc::Invoice {
            memo: request.description,
            value_msat: i64::try_from(request.amount.get()).unwrap_or(i64::MAX),
            expiry: i64::try_from(request.expiry_seconds).unwrap_or(i64::MAX),
            private: self.route_hints,
            ..lnrpc::Invoice::default()
        };
        let mut client = self.lightning();
        let answer = self
            .call(rpc, message, async |m| client.add_invoice(m).await)
            .await?;
        if answer.payment_request.is_empty() {
            return Err(nonsense(rpc, "no invoice text"));
        }
        Ok(Invoice {
            payment_hash: payment_hash(rpc, &answer.r_hash)?,
            node: payee_of(&answer.payment_request),
            bolt11: answer.payment_request,
            // The node counts from when it made it, which is not before we asked.
            expires: asked.saturating_add(Duration::from_secs(request.expiry_seconds)),
        })
    }

    async fn lookup(&self, hash: PaymentHash) -> Result<InvoiceState, LightningError> {
        let rpc = "LookupInvoice";
        let message = lnrpc::PaymentHash {
            r_hash: hash.0.to_vec(),
        };
        let mut client = self.lightning();
        match self
            .call(rpc, message, async |m| client.lookup_invoice(m).await)
            .await
        {
            Ok(invoice) => state_of(rpc, &invoice),
            Err(LightningError::Refused { detail, .. }) if status::says_unknown(&detail) => {
                Ok(InvoiceState::Unknown)
            }
            Err(error) => Err(error),
        }
    }

    async fn cancel(&self, hash: PaymentHash) -> Result<Cancellation, LightningError> {
        let rpc = "CancelInvoice";
        let message = invoicesrpc::CancelInvoiceMsg {
            payment_hash: hash.0.to_vec(),
        };
        let mut client = invoicesrpc::invoices_client::InvoicesClient::new(self.channel.clone());
        match self
            .call(rpc, message, async |m| client.cancel_invoice(m).await)
            .await
        {
            Ok(_) => Ok(Cancellation::Cancelled),
            // "Already settled", "unable to locate", or a macaroon that may not cancel: what
            // matters is where the invoice stands, so ask for that.
            Err(
                error @ (LightningError::Refused { .. }
                | LightningError::Unavailable {
                    status: NodeStatus::Unauthorized,
                    ..
                }),
            ) => match self.lookup(hash).await? {
                InvoiceState::Settled(settlement) => Ok(Cancellation::Settled(settlement)),
                InvoiceState::Cancelled | InvoiceState::Unknown => Ok(Cancellation::Cancelled),
                InvoiceState::Open => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    async fn pay(&self, order: PaymentOrder) -> Result<PaymentState, LightningError> {
        payments::pay(self, order).await
    }

    async fn track(&self, hash: PaymentHash) -> Result<PaymentState, LightningError> {
        payments::track(self, hash).await
    }

    async fn info(&self) -> Result<NodeInfo, LightningError> {
        let rpc = "GetInfo";
        let mut client = self.lightning();
        let message = lnrpc::GetInfoRequest {};
        let answer = self
            .call(rpc, message, async |m| client.get_info(m).await)
            .await?;
        let id = hex_decode(&answer.identity_pubkey)
            .map_err(|error| nonsense(rpc, &format!("node key: {error}")))?;
        let network = answer.chains.into_iter().next().map(|chain| chain.network);
        Ok(NodeInfo {
            id: NodeId(id),
            network: network.unwrap_or_default(),
        })
    }

    /// The wallet state is answered without a macaroon, locked or not. A node whose wallet is
    /// open is asked for its key as well, which tells whether our macaroon is good.
    async fn status(&self) -> NodeStatus {
        let mut client = StateClient::new(self.channel.clone());
        let mut request = Request::new(lnrpc::GetStateRequest {});
        request.set_timeout(self.deadline);
        let answer = tokio::time::timeout(self.deadline, client.get_state(request)).await;
        let state = match answer {
            Err(_) => return NodeStatus::Unreachable,
            Ok(Err(status)) => return status::node_status(&status),
            Ok(Ok(answer)) => answer.into_inner().state(),
        };
        match state {
            lnrpc::WalletState::NonExisting | lnrpc::WalletState::Locked => NodeStatus::Locked,
            lnrpc::WalletState::Unlocked
            | lnrpc::WalletState::RpcActive
            | lnrpc::WalletState::WaitingToStart => NodeStatus::Starting,
            lnrpc::WalletState::ServerActive => match self.info().await {
                Ok(_) => NodeStatus::Ready,
                Err(LightningError::Unavailable { status, .. }) => status,
                Err(_) => NodeStatus::Unreachable,
            },
        }
    }

    /// LND sends no answer, not even headers, before the first event; so this returns at once and
    /// trouble shows at [`LndSettlements::next`].
    async fn settlements(&self, since: u64) -> Result<LndSettlements, LightningError> {
        let rpc = "SubscribeInvoices";
        let message = lnrpc::InvoiceSubscription {
            add_index: 0,
            settle_index: since,
        };
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert("macaroon", self.macaroon.value(rpc).await?);
        let (out, events) = mpsc::channel(SETTLEMENTS_AHEAD);
        let task = tokio::spawn(forward_settlements(
            self.lightning(),
            request,
            self.macaroon.clone(),
            out,
        ));
        Ok(LndSettlements { events, task })
    }
}

/// Settlements as LND sends them.
pub struct LndSettlements {
    events: mpsc::Receiver<Result<Settlement, LightningError>>,
    task: JoinHandle<()>,
}

impl Settlements for LndSettlements {
    async fn next(&mut self) -> Result<Settlement, LightningError> {
        let event = self.events.recv().await;
        event.unwrap_or_else(|| Err(nonsense("SubscribeInvoices", "the stream has ended")))
    }
}

impl Drop for LndSettlements {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward_settlements(
    mut client: LightningClient<Channel>,
    request: Request<lnrpc::InvoiceSubscription>,
    macaroon: MacaroonFile,
    out: mpsc::Sender<Result<Settlement, LightningError>>,
) {
    let rpc = "SubscribeInvoices";
    let failed = |status: tonic::Status| {
        macaroon.forget();
        status::to_error(rpc, &status)
    };
    let mut stream = match client.subscribe_invoices(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => {
            let _ = out.send(Err(failed(status))).await;
            return;
        }
    };
    loop {
        let event = match stream.message().await {
            Ok(Some(invoice)) => match state_of(rpc, &invoice) {
                Ok(InvoiceState::Settled(settlement)) => Ok(settlement),
                // The same stream tells of new invoices; and one that makes no sense, such as a
                // keysend without amount, must not stop the others.
                Ok(_) => continue,
                Err(error) => {
                    tracing::warn!(%error, "settlement skipped");
                    continue;
                }
            },
            Ok(None) => return,
            Err(status) => Err(failed(status)),
        };
        let ended = event.is_err();
        if out.send(event).await.is_err() || ended {
            return;
        }
    }
}

fn state_of(rpc: &'static str, invoice: &lnrpc::Invoice) -> Result<InvoiceState, LightningError> {
    Ok(match invoice.state() {
        LndState::Open | LndState::Accepted => InvoiceState::Open,
        LndState::Canceled => InvoiceState::Cancelled,
        LndState::Settled => InvoiceState::Settled(Settlement {
            payment_hash: payment_hash(rpc, &invoice.r_hash)?,
            amount: u64::try_from(invoice.amt_paid_msat)
                .ok()
                .and_then(Msat::new)
                .filter(|amount| *amount > Msat::ZERO)
                .ok_or_else(|| nonsense(rpc, "amount paid"))?,
            settled_at: UnixSeconds(u64::try_from(invoice.settle_date).unwrap_or(0)),
            settle_index: invoice.settle_index,
        }),
    })
}

fn payment_hash(rpc: &'static str, bytes: &[u8]) -> Result<PaymentHash, LightningError> {
    bytes
        .try_into()
        .map(PaymentHash)
        .map_err(|_| nonsense(rpc, "payment hash"))
}

fn nonsense(rpc: &'static str, detail: &str) -> LightningError {
    LightningError::Nonsense {
        rpc,
        detail: detail.to_owned(),
    }
}
