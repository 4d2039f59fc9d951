//! Sessions: deposits are credited, and what is left of them goes back.
//!
//! The filter has judged challenge and preimage. Each call is one transaction of the ledger, and a
//! repeated call gets the recorded result (X1). Nothing is claimed by a call that is refused.

mod answers;
mod read;

use std::sync::Arc;
use std::time::Duration;

use protocol::amount::Sat;
use protocol::api::session::{
    CLOSE_SECONDS, CloseAnswer, CloseRequest, CloseResult, OpenAnswer, OpenRequest, OpenResult,
    TopUpAnswer, TopUpRequest, TopUpResult,
};
use protocol::hash::PaymentHash;
use protocol::lease::Report;

use self::answers::{
    close_outcome, invalid_return_invoice, not_credited, not_opened, open_outcome, top_up_outcome,
    unclosed, uncredited, unopened,
};
use super::DEADLINE;
use super::endings::Endings;
use super::leases::Leases;
use super::node::Node;
use super::payments::Payments;
use crate::domain::ledger::LedgerError;
use crate::domain::ports::{Clock, Ledger, Lightning, LightningError};
use crate::domain::return_invoice::{InvalidReturnInvoice, ReturnInvoice};
use crate::domain::session::{
    CallKind, CallMark, CloseBegun, Deposited, NewClose, NewDeposit, NewSession, Opened, Refunded,
    SessionState,
};
use crate::metrics::{DepositLabels, Metrics, SessionCallLabels};

/// How much earlier than [`CLOSE_SECONDS`] the answer to a close is made, so that it is there when
/// the filter has stopped waiting.
const CLOSE_MARGIN: Duration = Duration::from_millis(700);
/// What other processes did is looked for after so long, and then ever less often.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
const LOOK_SELDOM: Duration = Duration::from_millis(500);

/// Why a call on a session has no answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SessionError {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(&'static str),
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// It is not known which node this is.
    #[error(transparent)]
    Node(#[from] LightningError),
    /// It took too long; whether it was done is not known.
    #[error("the ledger did not answer in time")]
    Timeout,
}

/// Opens, tops up and closes.
pub struct Sessions<L, N> {
    ledger: Arc<L>,
    node: Arc<Node<N>>,
    payments: Arc<Payments<L, N>>,
    leases: Arc<Leases<L>>,
    endings: Arc<Endings>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

impl<L: Ledger, N: Lightning> Sessions<L, N> {
    /// On this ledger and this node.
    #[must_use]
    pub fn new(
        ledger: Arc<L>,
        node: Arc<Node<N>>,
        payments: Arc<Payments<L, N>>,
        leases: Arc<Leases<L>>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            ledger,
            node,
            payments,
            endings: Arc::clone(leases.endings()),
            leases,
            clock,
            metrics,
        }
    }

    /// Opens a session for a settled deposit (A2), or finds the one that the same call opened.
    ///
    /// # Errors
    /// Nonsense, or a ledger or node that fails or is slow; then it may be repeated.
    pub async fn open(&self, request: &OpenRequest) -> Result<OpenAnswer, SessionError> {
        let answer = within(DEADLINE, self.opened(request)).await;
        let outcome = answer.as_ref().map_or("fault", |a| open_outcome(a.result));
        self.count("open", outcome);
        answer
    }

    async fn opened(&self, request: &OpenRequest) -> Result<OpenAnswer, SessionError> {
        let call = self.read_open(request)?;
        if let Some(answer) = self.opened_before(&call).await? {
            return Ok(answer);
        }
        let node = self.node.known_info().await?;
        let idle = request.idle_timeout_seconds;
        let now = self.clock.now();
        let return_invoice = match ReturnInvoice::check(&request.return_invoice, &node, idle, now) {
            Ok(invoice) => invoice,
            Err(reason) => return Ok(invalid_return_invoice(&reason)),
        };
        let deposited = match self.payments.deposit(call.payment_hash).await? {
            Ok(deposited) => deposited,
            Err(missing) => {
                let result = not_opened(missing, request.call.is_expired);
                return Ok(unopened(result));
            }
        };
        if deposited < request.price {
            return Ok(unopened(OpenResult::TooLittle));
        }
        let session = NewSession {
            call: call.clone(),
            service: request.service.clone(),
            deposited,
            return_invoice,
            node: node.id,
            idle_timeout_seconds: idle,
            lease: request.lease.clone(),
        };
        match self.ledger.open_session(session).await? {
            Opened::Opened { at_ms, lease } => {
                self.credited(CallKind::Open, call.payment_hash, deposited);
                Ok(OpenAnswer {
                    result: OpenResult::Opened,
                    at: at_ms / 1_000,
                    lease: Some(lease.answer),
                    terms: Some(self.leases.terms()),
                    reason: None,
                })
            }
            Opened::ReturnInvoiceUsed => Ok(invalid_return_invoice(&InvalidReturnInvoice::Used)),
            // Perhaps by this call, sent twice at once.
            Opened::Claimed => {
                let before = self.opened_before(&call).await?;
                Ok(before.unwrap_or_else(|| unopened(OpenResult::Consumed)))
            }
        }
    }

    /// A repeated open never credits and begins no lease: it is served as a bearer of the session
    /// it opened (X1), by whatever lease its VM has.
    async fn opened_before(&self, call: &CallMark) -> Result<Option<OpenAnswer>, SessionError> {
        let id = call.payment_hash;
        let recorded = self
            .ledger
            .recorded_deposit(call.challenge_id.clone(), id, CallKind::Open)
            .await?;
        let Some(recorded) = recorded else {
            return Ok(None);
        };
        if recorded.fingerprint != call.fingerprint {
            return Ok(Some(unopened(OpenResult::Consumed)));
        }
        let session = self.ledger.find_session(id).await?;
        let is_open = session.is_some_and(|session| session.state == SessionState::Open);
        Ok(Some(match is_open {
            true => OpenAnswer {
                result: OpenResult::Opened,
                at: recorded.at.0,
                ..unopened(OpenResult::Opened)
            },
            false => unopened(OpenResult::Closed),
        }))
    }

    /// Credits a further settled deposit (A3).
    ///
    /// # Errors
    /// Nonsense, or a ledger or node that fails or is slow; then it may be repeated.
    pub async fn top_up(&self, request: &TopUpRequest) -> Result<TopUpAnswer, SessionError> {
        let answer = within(DEADLINE, self.topped_up(request)).await;
        let outcome = answer
            .as_ref()
            .map_or("fault", |a| top_up_outcome(a.result));
        self.count("topup", outcome);
        answer
    }

    async fn topped_up(&self, request: &TopUpRequest) -> Result<TopUpAnswer, SessionError> {
        let call = self.read_top_up(request)?;
        let id = request.session_id;
        if let Some(answer) = self.topped_up_before(&call, id).await? {
            return Ok(answer);
        }
        // Looked at first, so that nobody waits for money that will not be taken.
        let session = match self.ledger.find_session(id).await? {
            None => return Ok(uncredited(TopUpResult::NotFound)),
            Some(session) if session.state != SessionState::Open => {
                return Ok(uncredited(TopUpResult::Closed));
            }
            Some(session) => session,
        };
        let amount = match self.payments.deposit(call.payment_hash).await? {
            Ok(amount) => amount,
            Err(missing) => {
                let result = not_credited(missing, request.call.is_expired);
                return Ok(uncredited(result));
            }
        };
        let deposit = NewDeposit {
            call: call.clone(),
            session_id: id,
            service: match request.service.is_empty() {
                true => session.service,
                false => request.service.clone(),
            },
            amount,
        };
        Ok(match self.ledger.top_up(deposit).await? {
            Deposited::Credited(at_ms) => {
                self.credited(CallKind::TopUp, id, amount);
                TopUpAnswer {
                    result: TopUpResult::Credited,
                    at: at_ms / 1_000,
                    repeated: false,
                }
            }
            Deposited::Claimed => {
                let before = self.topped_up_before(&call, id).await?;
                before.unwrap_or_else(|| uncredited(TopUpResult::Consumed))
            }
            Deposited::NotFound => uncredited(TopUpResult::NotFound),
            Deposited::Closed => uncredited(TopUpResult::Closed),
        })
    }

    async fn topped_up_before(
        &self,
        call: &CallMark,
        session_id: PaymentHash,
    ) -> Result<Option<TopUpAnswer>, SessionError> {
        let recorded = self
            .ledger
            .recorded_deposit(call.challenge_id.clone(), session_id, CallKind::TopUp)
            .await?;
        Ok(
            recorded.map(|recorded| match recorded.fingerprint == call.fingerprint {
                true => TopUpAnswer {
                    result: TopUpResult::Credited,
                    at: recorded.at.0,
                    repeated: true,
                },
                false => uncredited(TopUpResult::Consumed),
            }),
        )
    }

    /// Stops a session, waits until its leases are back and what is left has gone back, or until
    /// there is no more time, and says so (A5).
    ///
    /// # Errors
    /// Nonsense, or a ledger that fails or is slow; then it may be repeated.
    pub async fn close(&self, request: &CloseRequest) -> Result<CloseAnswer, SessionError> {
        let answer = self.closed(request).await;
        let outcome = answer.as_ref().map_or("fault", |a| close_outcome(a.result));
        self.count("close", outcome);
        answer
    }

    async fn closed(&self, request: &CloseRequest) -> Result<CloseAnswer, SessionError> {
        let until = tokio::time::Instant::now()
            + Duration::from_secs(CLOSE_SECONDS).saturating_sub(CLOSE_MARGIN);
        let call = self.read_close(request)?;
        let id = request.session_id;
        let close = NewClose {
            call: call.clone(),
            session_id: id,
            must_be_own: request.call.is_expired,
            lease: request.lease.clone().map(|report| Report {
                release: true,
                ..report
            }),
        };
        let begun = within(DEADLINE, async {
            Ok(self.ledger.begin_close(close).await?)
        });
        let (at, repeated, answered, lease) = match begun.await? {
            CloseBegun::Begun {
                at,
                is_repeated,
                answered,
                lease,
            } => (at, is_repeated, answered, lease),
            CloseBegun::NotFound => return Ok(unclosed(CloseResult::NotFound)),
            CloseBegun::AlreadyClosed => return Ok(unclosed(CloseResult::AlreadyClosed)),
            CloseBegun::Consumed => return Ok(unclosed(CloseResult::Consumed)),
            CloseBegun::Expired => return Ok(unclosed(CloseResult::Expired)),
        };
        self.endings.settled(id);
        if let Some(lease) = &lease {
            self.leases.count_lost(lease.lost_units);
        }
        let refunded = match answered {
            Some(first) => first,
            None => {
                let answer = self.ended(id, until).await?;
                let record = self.ledger.record_answer(call, id, answer);
                within(CLOSE_MARGIN, async { Ok(record.await?) }).await?
            }
        };
        Ok(CloseAnswer {
            result: CloseResult::Closed,
            at: at.0,
            refund_sats: refunded.refund.get(),
            refund_status: refunded.status.as_str().to_owned(),
            repeated,
            lease: lease.map(|reported| reported.answer),
        })
    }

    /// What became of what is left, as far as it is known `until` then.
    async fn ended(
        &self,
        id: PaymentHash,
        until: tokio::time::Instant,
    ) -> Result<Refunded, SessionError> {
        let waiting = self.endings.wait_for(id);
        let mut pause = LOOK_AGAIN;
        loop {
            // Before the ledger is looked at, so that nothing told meanwhile is missed.
            let told = waiting.told();
            let ending = tokio::time::timeout_at(until + CLOSE_MARGIN / 2, self.ledger.ending(id));
            let ending = ending.await.map_err(|_| SessionError::Timeout)??;
            let ending = ending.ok_or(SessionError::Timeout)?;
            if let Some(answer) = ending.answer() {
                return Ok(answer);
            }
            if tokio::time::Instant::now() >= until {
                return ending.answer_now().ok_or(SessionError::Timeout);
            }
            let told = tokio::time::timeout(pause, told);
            let _ = tokio::time::timeout_at(until, told).await;
            pause = LOOK_SELDOM.min(pause * 2);
        }
    }

    fn credited(&self, kind: CallKind, session_id: PaymentHash, amount: Sat) {
        let labels = DepositLabels {
            kind: kind.as_str(),
        };
        self.metrics.deposits.get_or_create(&labels).inc();
        self.metrics
            .deposits_sat
            .get_or_create(&labels)
            .inc_by(amount.get());
        tracing::info!(
            %session_id,
            amount_sat = amount.get(),
            kind = kind.as_str(),
            "deposit credited"
        );
    }

    fn count(&self, call: &'static str, outcome: &'static str) {
        let labels = SessionCallLabels { call, outcome };
        self.metrics.session_calls.get_or_create(&labels).inc();
        tracing::debug!(call, outcome, "session call");
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, SessionError>>,
) -> Result<T, SessionError> {
    let done = tokio::time::timeout(limit, work).await;
    done.unwrap_or(Err(SessionError::Timeout))
}
