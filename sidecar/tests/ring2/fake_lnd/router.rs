//! The fake's router: what LND 0.20.1 was seen to answer to payments.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::{SystemTime, UNIX_EPOCH};

use bitcoin::hashes::Hash as _;
use lightning_invoice::Bolt11Invoice;
use protocol::hash::PaymentHash;
use sidecar::adapters::lightning::lnd::lnrpc::payment::PaymentStatus;
use sidecar::adapters::lightning::lnd::lnrpc::{Payment, PaymentFailureReason};
use sidecar::adapters::lightning::lnd::routerrpc::router_server::Router;
use sidecar::adapters::lightning::lnd::routerrpc::{SendPaymentRequest, TrackPaymentRequest};
use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::FakeLnd;

/// What becomes of the next payments.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Routing {
    /// They arrive, for this fee.
    Arrive { fee_msat: i64 },
    /// They fail.
    Fail(PaymentFailureReason),
    /// They stay under way until [`FakeLnd::resolve`], as payments of hold invoices do.
    Hold,
    /// They arrive, and nobody is told: the stream says nothing.
    ArriveSilently,
    /// Nothing is done and nothing said.
    Ignore,
    /// Who asks where a payment stands gets no answer.
    NeverTell,
}

pub(super) struct Payments {
    routing: Routing,
    known: BTreeMap<PaymentHash, Payment>,
    requests: Vec<SendPaymentRequest>,
    asked_to_track: bool,
    changes: watch::Sender<u64>,
}

impl Default for Payments {
    fn default() -> Self {
        Self {
            routing: Routing::Arrive { fee_msat: 0 },
            known: BTreeMap::new(),
            requests: Vec::new(),
            asked_to_track: false,
            changes: watch::Sender::new(0),
        }
    }
}

type Events = Pin<Box<dyn Stream<Item = Result<Payment, Status>> + Send>>;

impl FakeLnd {
    pub(crate) fn route(&self, routing: Routing) {
        self.0.payments.lock().unwrap().routing = routing;
    }

    /// What the node was asked to send, in order.
    pub(crate) fn send_requests(&self) -> Vec<SendPaymentRequest> {
        self.0.payments.lock().unwrap().requests.clone()
    }

    /// Payments that arrived: hash, amount and fee.
    pub(crate) fn arrived(&self) -> Vec<(PaymentHash, i64, i64)> {
        let payments = self.0.payments.lock().unwrap();
        let arrived = payments.known.iter();
        arrived
            .filter(|(_, p)| p.status() == PaymentStatus::Succeeded)
            .map(|(hash, p)| (*hash, p.value_msat, p.fee_msat))
            .collect()
    }

    pub(crate) fn in_flight(&self) -> usize {
        let payments = self.0.payments.lock().unwrap();
        let known = payments.known.values();
        known
            .filter(|p| p.status() == PaymentStatus::InFlight)
            .count()
    }

    pub(crate) fn payment(&self, hash: PaymentHash) -> Payment {
        self.0.payments.lock().unwrap().known[&hash].clone()
    }

    /// Whether it was ever asked where a payment stands.
    pub(crate) fn is_asked_to_track(&self) -> bool {
        self.0.payments.lock().unwrap().asked_to_track
    }

    /// Ends a payment that is under way.
    pub(crate) fn resolve(&self, hash: PaymentHash, outcome: Result<i64, PaymentFailureReason>) {
        let mut payments = self.0.payments.lock().unwrap();
        let payment = payments.known.get_mut(&hash).unwrap();
        assert_eq!(payment.status(), PaymentStatus::InFlight);
        finish(payment, outcome);
        payments.changes.send_modify(|count| *count += 1);
    }

    /// What the node will say of this payment.
    pub(crate) fn remember(&self, payment: Payment) {
        let hash = payment.payment_hash.parse().unwrap();
        self.0.payments.lock().unwrap().known.insert(hash, payment);
    }

    fn begin(&self, request: &SendPaymentRequest) -> Result<(PaymentHash, bool), Status> {
        let invoice: Bolt11Invoice = request.payment_request.parse().unwrap();
        let hash = PaymentHash(invoice.payment_hash().to_byte_array());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        if invoice.expires_at().is_some_and(|at| at <= now) {
            return Err(Status::unknown("invoice expired. Valid until a moment ago"));
        }
        let amount = match (invoice.amount_milli_satoshis(), request.amt_msat) {
            (None | Some(0), 0) => {
                let says = "amount must be specified when paying a zero amount invoice";
                return Err(Status::unknown(says));
            }
            (None | Some(0), amount) => amount,
            (Some(amount), 0) => i64::try_from(amount).unwrap(),
            (Some(_), _) => {
                let says = "amount must not be specified when paying a non-zero amount invoice";
                return Err(Status::unknown(says));
            }
        };
        let mut payments = self.0.payments.lock().unwrap();
        payments.requests.push(request.clone());
        let before = payments.known.get(&hash).map(Payment::status);
        match before {
            None | Some(PaymentStatus::Failed) => {}
            Some(PaymentStatus::Succeeded) => {
                return Err(Status::already_exists("invoice is already paid"));
            }
            Some(_) => return Err(Status::already_exists("payment is in transition")),
        }
        let mut payment = Payment {
            payment_hash: hash.to_string(),
            value_msat: amount,
            status: PaymentStatus::InFlight.into(),
            ..Payment::default()
        };
        let routing = payments.routing;
        match routing {
            Routing::Arrive { fee_msat } if fee_msat > request.fee_limit_msat => {
                let reason = PaymentFailureReason::FailureReasonNoRoute;
                finish(&mut payment, Err(reason));
            }
            Routing::Arrive { fee_msat } => finish(&mut payment, Ok(fee_msat)),
            Routing::ArriveSilently => finish(&mut payment, Ok(0)),
            Routing::Fail(reason) => finish(&mut payment, Err(reason)),
            Routing::Hold | Routing::NeverTell => {}
            Routing::Ignore => return Ok((hash, true)),
        }
        payments.known.insert(hash, payment);
        Ok((hash, matches!(routing, Routing::ArriveSilently)))
    }

    async fn next_event(&self, hash: PaymentHash, only_last: bool) -> Result<Payment, Status> {
        let mut changes = self.0.payments.lock().unwrap().changes.subscribe();
        loop {
            let known = self.0.payments.lock().unwrap().known.get(&hash).cloned();
            let payment = known.ok_or_else(|| Status::not_found("payment isn't initiated"))?;
            let is_last = matches!(
                payment.status(),
                PaymentStatus::Succeeded | PaymentStatus::Failed
            );
            if is_last || !only_last {
                return Ok(payment);
            }
            let _ = changes.changed().await;
        }
    }
}

fn finish(payment: &mut Payment, outcome: Result<i64, PaymentFailureReason>) {
    match outcome {
        Ok(fee) => {
            payment.set_status(PaymentStatus::Succeeded);
            payment.fee_msat = fee;
        }
        Err(reason) => {
            payment.set_status(PaymentStatus::Failed);
            payment.set_failure_reason(reason);
        }
    }
}

#[tonic::async_trait]
impl Router for FakeLnd {
    type SendPaymentV2Stream = Events;
    type TrackPaymentV2Stream = Events;

    async fn send_payment_v2(
        &self,
        request: Request<SendPaymentRequest>,
    ) -> Result<Response<Events>, Status> {
        self.admit(&request).await?;
        let request = request.into_inner();
        let (hash, silent) = self.begin(&request)?;
        if silent {
            std::future::pending::<()>().await;
        }
        // Headers go out with the first event.
        let event = self.next_event(hash, request.no_inflight_updates).await?;
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(event)))))
    }

    async fn track_payment_v2(
        &self,
        request: Request<TrackPaymentRequest>,
    ) -> Result<Response<Events>, Status> {
        self.admit(&request).await?;
        let routing = {
            let mut payments = self.0.payments.lock().unwrap();
            payments.asked_to_track = true;
            payments.routing
        };
        if matches!(routing, Routing::NeverTell) {
            std::future::pending::<()>().await;
        }
        let request = request.into_inner();
        let hash = PaymentHash(request.payment_hash.try_into().unwrap());
        let event = self.next_event(hash, request.no_inflight_updates).await?;
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(event)))))
    }
}
