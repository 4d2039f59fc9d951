//! One look at one refund: ask the node what became of it, then wait, write it down or send.

use std::pin::pin;
use std::time::Duration;

use protocol::amount::{Msat, Sat};

use super::{Cap, Done, HELD, Inner, Place};
use crate::domain::invoice::expiry_of;
use crate::domain::payment::{PaymentFailure, PaymentOrder, PaymentState};
use crate::domain::payout::{Payout, RefundOutcome, RefundWork, Sending};
use crate::domain::ports::{Ledger, Lightning, LightningError};
use crate::domain::refund::RefundState;

/// Between two questions about a payment that is under way or of unknown outcome.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// The same for one that is under way for long: a hold invoice can last for days.
const ASK_SELDOM: Duration = Duration::from_secs(60);
/// Under way for so long is long.
const LONG_MS: u64 = 120_000;
/// Pause after the second failure; each later one is four times as long.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1_800);
const LONGEST_WHY: usize = 200;

/// A step that ends here, with what is to be written.
type Step = (RefundOutcome, Done);

const fn later(after: Duration) -> Step {
    (RefundOutcome::Later { after }, Done::Seen)
}

const fn failed(why: String) -> Step {
    (RefundOutcome::Failed { why }, Done::Seen)
}

impl<L: Ledger, N: Lightning> Inner<L, N> {
    pub(super) async fn work(&self, work: RefundWork, mut place: Option<Place>) -> Done {
        let session = work.refund.session_id;
        let (outcome, done) = match self.step(&work, &mut place).await {
            Ok(Some(step)) => step,
            Ok(None) => return Done::Seen,
            Err(error) => {
                tracing::warn!(%error, %session, "refund waits for the node");
                later(ASK_AGAIN)
            }
        };
        self.write(&work, outcome).await;
        done
    }

    /// `None`: it is no longer ours.
    async fn step(
        &self,
        work: &RefundWork,
        place: &mut Option<Place>,
    ) -> Result<Option<Step>, LightningError> {
        // What the URL leads to may have changed since the last look.
        if self.node.info().await?.id != work.refund.node {
            return Ok(Some(later(ASK_SELDOM)));
        }
        let state = self.node.track(work.refund.return_hash).await?;
        match (state, work.refund.state) {
            (PaymentState::InFlight, _) => Ok(Some(self.still_under_way(work))),
            (PaymentState::Succeeded { amount, fee }, _) => {
                Ok(Some(arrived(work.refund.amount, work.payout, amount, fee)))
            }
            (PaymentState::Failed { reason }, RefundState::Sending) => {
                Ok(Some(self.not_paid(work.refund.attempts, reason)))
            }
            // Never sent, or a failure that was seen before: nothing is under way.
            (PaymentState::NotSent | PaymentState::Failed { .. }, _) => {
                self.send(work, place).await
            }
        }
    }

    fn still_under_way(&self, work: &RefundWork) -> Step {
        let age = self
            .clock
            .unix_millis()
            .saturating_sub(work.refund.updated_ms);
        later(if age < LONG_MS { ASK_AGAIN } else { ASK_SELDOM })
    }

    async fn send(
        &self,
        work: &RefundWork,
        place: &mut Option<Place>,
    ) -> Result<Option<Step>, LightningError> {
        let refund = &work.refund;
        let invoice = refund.return_invoice.as_str();
        let Some(expires) = expiry_of(invoice) else {
            return Ok(Some(failed("the return invoice is none".to_owned())));
        };
        // By both clocks, since what is given up needs a human.
        let Ok(Some(now)) = self.clocks.now().await else {
            return Ok(Some(later(ASK_AGAIN)));
        };
        if now >= expires {
            let why = format!("the return invoice expired at {expires}");
            return Ok(Some(failed(why)));
        }
        let mut order = PaymentOrder {
            bolt11: invoice.to_owned(),
            payment_hash: refund.return_hash,
            amount: refund.amount.to_msat(),
            fee_limit: Msat::ZERO,
            cltv_limit: self.config.cltv_limit,
            timeout: self.config.timeout,
        };
        let payout = match (work.payout, order.names_amount()) {
            (_, Err(why)) => return Ok(Some(failed(why.to_owned()))),
            // It was written and never left.
            (Some(payout), _) if refund.state == RefundState::Sending => payout,
            (None, Ok(true)) => Payout::whole(refund.amount, work.spent, self.config.fees),
            (Some(_), Ok(true)) => Payout::of(refund.amount, work.spent, self.config.fees),
            (_, Ok(false)) => Payout::exactly(refund.amount, work.spent, self.config.fees),
        };
        order.amount = payout.sent.to_msat();
        order.fee_limit = payout.fee_limit;
        let asked = (self.clock.monotonic(), self.clock.unix_millis());
        let begun = self
            .ledger
            .begin_sending(work, self.me, payout, self.config.caps)
            .await;
        place.take();
        match begun {
            Ok(Sending::Begun) => {}
            Ok(Sending::Lost) => return Ok(None),
            Ok(Sending::InFlightFull) => return Ok(Some(held(Cap::InFlight))),
            Ok(Sending::BudgetSpent) => return Ok(Some(held(Cap::DailyFees))),
            Err(error) => {
                let session = refund.session_id;
                tracing::error!(%error, %session, "refund is not sent: it could not be written");
                return Ok(None);
            }
        }
        // A process that was stopped for so long may have been taken for dead, and another may
        // have sent it and found that it failed. While a machine is suspended only the wall clock
        // goes on.
        let passed = self.clock.monotonic().saturating_sub(asked.0);
        let passed_ms = self.clock.unix_millis().saturating_sub(asked.1);
        if passed.max(Duration::from_millis(passed_ms)) > self.hold / 2 {
            return Ok(Some(later(ASK_AGAIN)));
        }
        let answer = self.pay(work, order).await;
        self.after_sending(work, payout, answer).await.map(Some)
    }

    /// Tells the ledger meanwhile that we are alive.
    async fn pay(
        &self,
        work: &RefundWork,
        order: PaymentOrder,
    ) -> Result<PaymentState, LightningError> {
        let session = work.refund.session_id;
        tracing::info!(%session, amount_sat = order.amount.to_sat_floor(),
            fee_limit_sat = order.fee_limit.to_sat_floor(), "refund is sent");
        let mut paying = pin!(self.node.pay(order));
        let mut beats = tokio::time::interval(self.hold / 3);
        loop {
            tokio::select! {
                answer = &mut paying => return answer,
                _ = beats.tick() => {
                    if let Err(error) = self.ledger.keep_refund(session, self.me, self.hold).await {
                        tracing::warn!(%error, %session, "refund may be looked at by others");
                    }
                }
            }
        }
    }

    async fn after_sending(
        &self,
        work: &RefundWork,
        payout: Payout,
        answer: Result<PaymentState, LightningError>,
    ) -> Result<Step, LightningError> {
        let attempts = work.refund.attempts.saturating_add(1);
        let (answer, refusal) = match answer {
            Ok(state) => (state, None),
            // Only if the node has no such payment is a refusal the whole story.
            Err(LightningError::Refused { detail, .. }) => (
                self.node.track(work.refund.return_hash).await?,
                Some(detail),
            ),
            Err(error) => {
                let session = work.refund.session_id;
                tracing::warn!(%error, %session, "outcome of refund is not known; the node is asked");
                return Ok(later(ASK_AGAIN));
            }
        };
        Ok(match (answer, refusal) {
            (PaymentState::Succeeded { amount, fee }, _) => {
                arrived(work.refund.amount, Some(payout), amount, fee)
            }
            (PaymentState::InFlight, _) | (PaymentState::NotSent, None) => later(ASK_AGAIN),
            (PaymentState::Failed { .. } | PaymentState::NotSent, Some(detail)) => {
                let invoice = work.refund.return_invoice.as_str();
                let why = detail.replace(invoice, "(invoice)");
                let why = why.chars().take(LONGEST_WHY).collect();
                self.again_or_failed(attempts, why)
            }
            (PaymentState::Failed { reason }, None) => self.not_paid(attempts, reason),
        })
    }

    /// The node says that nothing is under way.
    fn not_paid(&self, attempts: u64, reason: PaymentFailure) -> Step {
        let why = reason.as_str().to_owned();
        match reason {
            // The payee's own word; it will not change.
            PaymentFailure::IncorrectDetails => failed(why),
            _ => self.again_or_failed(attempts, why),
        }
    }

    fn again_or_failed(&self, attempts: u64, why: String) -> Step {
        if attempts >= u64::from(self.config.attempts) {
            return failed(why);
        }
        // The first try may have been for too low a fee: the second one follows at once.
        let after = attempts.checked_sub(2).map_or(Duration::ZERO, |times| {
            let times = u32::try_from(times).unwrap_or(u32::MAX);
            let pause = FIRST_PAUSE.saturating_mul(4_u32.saturating_pow(times));
            pause.min(LONGEST_PAUSE)
        });
        (RefundOutcome::Again { after, why }, Done::Seen)
    }

    async fn write(&self, work: &RefundWork, outcome: RefundOutcome) {
        let refund = &work.refund;
        let session = refund.session_id;
        let recorded = self
            .ledger
            .record_refund(work, self.me, outcome.clone())
            .await;
        match recorded {
            Ok(true) => {}
            Ok(false) => {
                tracing::debug!(%session, "refund was decided by another");
                return;
            }
            // It stays as it is, and whoever takes it next asks the node again.
            Err(error) => {
                tracing::error!(%error, %session, "outcome of refund could not be written");
                return;
            }
        }
        match outcome {
            RefundOutcome::Paid { sent, fee } => {
                self.metrics.refunds_paid.inc();
                self.metrics.refund_fees_msat.inc_by(fee.get());
                self.metrics.refunds_paid_sat.inc_by(sent.get());
                tracing::info!(%session, amount_sat = refund.amount.get(), sent_sat = sent.get(),
                    fee_msat = fee.get(), "refund is paid");
                self.endings.decided(session);
            }
            RefundOutcome::Failed { why } => {
                tracing::error!(%session, amount_sat = refund.amount.get(), why,
                    "REFUND FAILED: a human must look at it (`boltgate refunds list`)");
                self.endings.decided(session);
            }
            RefundOutcome::Again { after, why } => {
                tracing::warn!(%session, amount_sat = refund.amount.get(), why,
                    again_seconds = after.as_secs(), "refund failed; it is sent again");
            }
            RefundOutcome::Later { .. } => {}
        }
    }
}

const fn held(cap: Cap) -> Step {
    (RefundOutcome::Later { after: HELD }, Done::Held(cap))
}

/// The node paid this hash; if not for us, somebody else made it do so. A worker that was taken for
/// dead may have sent more than what was written last, up to all that is owed.
fn arrived(owed: Sat, payout: Option<Payout>, amount: Msat, fee: Msat) -> Step {
    let sent = Sat::new(amount.to_sat_floor());
    let sent = sent.filter(|sent| {
        let least = payout.map(|payout| payout.sent);
        least.is_some_and(|least| least <= *sent) && *sent <= owed
    });
    match sent {
        Some(sent) if sent.to_msat() == amount => (RefundOutcome::Paid { sent, fee }, Done::Seen),
        Some(_) | None => failed(format!(
            "the node paid {} msat to this invoice, and not for this refund",
            amount.get()
        )),
    }
}
