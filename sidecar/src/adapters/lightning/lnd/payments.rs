//! Paying and tracking. Both of LND's calls are streams that say nothing, not even headers, before
//! their first event; of either we need only one.

use std::time::Duration;

use protocol::amount::Msat;
use protocol::hash::PaymentHash;
use tonic::{Code, Response, Status, Streaming};

use super::lnrpc::payment::PaymentStatus;
use super::lnrpc::{Payment, PaymentFailureReason};
use super::routerrpc::router_client::RouterClient;
use super::routerrpc::{SendPaymentRequest, TrackPaymentRequest};
use super::{LndNode, nonsense};
use crate::domain::payment::{PaymentFailure, PaymentOrder, PaymentState};
use crate::domain::ports::LightningError;

/// How long we listen after the node has stopped to look for routes: what is under way by then is
/// usually decided within seconds, and is asked for later otherwise.
const AFTER_TIMEOUT: Duration = Duration::from_secs(2);

/// The payment is not tied to the call: it goes on when we stop listening.
pub(super) async fn pay(
    node: &LndNode,
    order: PaymentOrder,
) -> Result<PaymentState, LightningError> {
    let rpc = "SendPaymentV2";
    let refused = |detail: &str| LightningError::Refused {
        rpc,
        detail: detail.to_owned(),
    };
    let names_amount = order.names_amount().map_err(refused)?;
    let msat = |amount: Msat| i64::try_from(amount.get()).map_err(|_| refused("amount"));
    let seconds = i32::try_from(order.timeout.as_secs()).unwrap_or(i32::MAX);
    let cltv_limit = i32::try_from(order.cltv_limit).unwrap_or(i32::MAX);
    let message = SendPaymentRequest {
        payment_request: order.bolt11.clone(),
        // 0 would mean LND's own limit.
        timeout_seconds: seconds.max(1),
        cltv_limit: cltv_limit.max(1),
        amt_msat: if names_amount { msat(order.amount)? } else { 0 },
        fee_limit_msat: msat(order.fee_limit)?,
        no_inflight_updates: true,
    };
    let deadline = order.timeout.saturating_add(AFTER_TIMEOUT);
    let mut client = RouterClient::new(node.channel.clone());
    let answer = node
        .call_within(deadline, rpc, message, async |m| {
            first_event(client.send_payment_v2(m).await?).await
        })
        .await;
    match answer {
        Ok(payment) => state_of(rpc, order.payment_hash, &payment),
        Err(LightningError::Refused { rpc, detail }) => Err(LightningError::Refused {
            rpc,
            detail: detail.replace(&order.bolt11, "(invoice)"),
        }),
        Err(error) => Err(error),
    }
}

pub(super) async fn track(
    node: &LndNode,
    hash: PaymentHash,
) -> Result<PaymentState, LightningError> {
    let rpc = "TrackPaymentV2";
    let message = TrackPaymentRequest {
        payment_hash: hash.0.to_vec(),
        // The first event says how it is now, whatever it is.
        no_inflight_updates: false,
    };
    let mut client = RouterClient::new(node.channel.clone());
    let payment = node
        .call(rpc, message, async |m| {
            let events = match client.track_payment_v2(m).await {
                Ok(events) => first_event(events).await,
                Err(status) => Err(status),
            };
            match events {
                Ok(payment) => Ok(Response::new(Some(payment.into_inner()))),
                Err(status) if status.code() == Code::NotFound => Ok(Response::new(None)),
                Err(status) => Err(status),
            }
        })
        .await?;
    payment.map_or(Ok(PaymentState::NotSent), |payment| {
        state_of(rpc, hash, &payment)
    })
}

async fn first_event(events: Response<Streaming<Payment>>) -> Result<Response<Payment>, Status> {
    let first = events.into_inner().message().await?;
    first
        .map(Response::new)
        .ok_or_else(|| Status::unavailable("the stream has ended"))
}

fn state_of(
    rpc: &'static str,
    hash: PaymentHash,
    payment: &Payment,
) -> Result<PaymentState, LightningError> {
    if payment.payment_hash.parse() != Ok(hash) {
        return Err(nonsense(rpc, "another payment"));
    }
    let msat = |amount: i64, what| {
        u64::try_from(amount)
            .ok()
            .and_then(Msat::new)
            .ok_or_else(|| nonsense(rpc, what))
    };
    // By number, so that a status of a later LND is not taken for one of these.
    match PaymentStatus::try_from(payment.status) {
        Ok(PaymentStatus::InFlight | PaymentStatus::Initiated) => Ok(PaymentState::InFlight),
        Ok(PaymentStatus::Succeeded) => Ok(PaymentState::Succeeded {
            amount: msat(payment.value_msat, "amount")?,
            fee: msat(payment.fee_msat, "fee")?,
        }),
        Ok(PaymentStatus::Failed) => Ok(PaymentState::Failed {
            reason: failure_of(payment.failure_reason()),
        }),
        Ok(PaymentStatus::Unknown) | Err(_) => Err(nonsense(rpc, "payment status")),
    }
}

const fn failure_of(reason: PaymentFailureReason) -> PaymentFailure {
    match reason {
        PaymentFailureReason::FailureReasonTimeout => PaymentFailure::Timeout,
        PaymentFailureReason::FailureReasonNoRoute => PaymentFailure::NoRoute,
        PaymentFailureReason::FailureReasonIncorrectPaymentDetails => {
            PaymentFailure::IncorrectDetails
        }
        PaymentFailureReason::FailureReasonInsufficientBalance => {
            PaymentFailure::InsufficientBalance
        }
        PaymentFailureReason::FailureReasonCanceled => PaymentFailure::Cancelled,
        PaymentFailureReason::FailureReasonNone | PaymentFailureReason::FailureReasonError => {
            PaymentFailure::Other
        }
    }
}
