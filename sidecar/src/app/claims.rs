//! Claims of charges: everything that could refuse the request was looked at by the filter, the
//! preimage too; the ledger says whether this attempt may be served for the payment.

use std::sync::Arc;
use std::time::Duration;

use protocol::amount::Sat;
use protocol::api::charge::{AbandonRequest, Claim, ClaimRequest, MAX_ABANDONED};
use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;
use tokio::sync::Semaphore;

use super::names::{is_name, is_random_name};
use super::node::Node;
use super::{DEADLINE, PATIENCE};
use crate::domain::claim::{AttemptId, ClaimTimes, Claimed, NewClaim};
use crate::domain::invoice::InvoiceState;
use crate::domain::ledger::LedgerError;
use crate::domain::ports::{Clock, Ledger, Lightning};
use crate::metrics::{ClaimLabels, ClaimOutcome, Metrics};

/// Between two questions to the node about one payment.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Questions to the node at a time; more wait.
const ASKING: usize = 32;
/// No challenge lives nearly as long; its claim would be remembered as long.
const LONGEST_LIFE: Duration = Duration::from_secs(31 * 86_400);
const LONGEST_ID: usize = 128;

/// Why it is not known who has a payment.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ClaimError {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(&'static str),
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// It took too long; whether it was done is not known.
    #[error("the ledger did not answer in time")]
    Timeout,
}

/// Decides claims.
pub struct Claims<L, N> {
    ledger: Arc<L>,
    node: Arc<Node<N>>,
    clock: Arc<dyn Clock>,
    asking: Semaphore,
    metrics: Arc<Metrics>,
}

impl<L: Ledger, N: Lightning> Claims<L, N> {
    /// On this ledger.
    #[must_use]
    pub fn new(
        ledger: Arc<L>,
        node: Arc<Node<N>>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            ledger,
            node,
            clock,
            asking: Semaphore::new(ASKING),
            metrics,
        }
    }

    /// Who has the payment. The answer to a lost answer is the same again; what an attempt won and
    /// did not use must be [abandoned](Self::abandon), also after an error.
    ///
    /// # Errors
    /// Nonsense, or a ledger that fails or is slow.
    pub async fn claim(&self, request: &ClaimRequest) -> Result<Claim, ClaimError> {
        let work = tokio::time::timeout(DEADLINE, self.decide(request)).await;
        let result = work.unwrap_or(Err(ClaimError::Timeout));
        let outcome = match &result {
            Ok(Claim::Won) => ClaimOutcome::Won,
            Ok(Claim::Lost) => ClaimOutcome::Lost,
            Ok(Claim::Busy) => ClaimOutcome::Busy,
            Ok(Claim::Unsettled) => ClaimOutcome::Unsettled,
            Err(ClaimError::Invalid(_)) => ClaimOutcome::Invalid,
            Err(ClaimError::Ledger(_) | ClaimError::Timeout) => ClaimOutcome::Ledger,
        };
        let labels = ClaimLabels { outcome };
        self.metrics.claims.get_or_create(&labels).inc();
        tracing::debug!(payment_hash = %request.payment_hash, ?result, "claim");
        result
    }

    async fn decide(&self, request: &ClaimRequest) -> Result<Claim, ClaimError> {
        let claim = self.read(request)?;
        if request.settled && !self.is_settled(claim.payment_hash).await? {
            return Ok(Claim::Unsettled);
        }
        let claimed = self.ledger.claim(claim, ClaimTimes::default()).await?;
        Ok(match claimed {
            Claimed::Won => Claim::Won,
            Claimed::Lost => Claim::Lost,
            Claimed::Busy => Claim::Busy,
        })
    }

    /// Keeps nonsense out of the ledger.
    fn read(&self, request: &ClaimRequest) -> Result<NewClaim, ClaimError> {
        check_vm(&request.vm)?;
        let id = &request.challenge_id;
        let is_id =
            (1..=LONGEST_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
        if !is_id {
            return Err(ClaimError::Invalid("challenge_id is no id"));
        }
        if !is_name(&request.service) {
            return Err(ClaimError::Invalid(
                "names of services have letters, digits, - and _ only",
            ));
        }
        if request.amount == Sat::ZERO {
            return Err(ClaimError::Invalid("amount must be at least 1"));
        }
        let latest = self.clock.now().saturating_add(LONGEST_LIFE);
        if request.expires > latest.0 {
            return Err(ClaimError::Invalid("expires is too far away"));
        }
        Ok(NewClaim {
            payment_hash: request.payment_hash,
            attempt: attempt_id(&request.attempt)?,
            challenge_id: id.clone(),
            service: request.service.clone(),
            amount: request.amount,
            expires: UnixSeconds(request.expires),
        })
    }

    /// Whether the money has arrived, by the ledger or, for as long as there is time, by the node.
    async fn is_settled(&self, hash: PaymentHash) -> Result<bool, LedgerError> {
        if self.ledger.is_sold(hash).await? {
            return Ok(true);
        }
        let asked = tokio::time::timeout(PATIENCE, self.ask_node(hash)).await;
        Ok(asked.unwrap_or(false))
    }

    /// Until the node says yes, or that it never will.
    async fn ask_node(&self, hash: PaymentHash) -> bool {
        loop {
            let Ok(permit) = self.asking.acquire().await else {
                return false;
            };
            let state = self.node.lookup(hash).await;
            drop(permit);
            match state {
                Ok(InvoiceState::Settled(_)) => return true,
                Ok(InvoiceState::Cancelled | InvoiceState::Unknown) => return false,
                Ok(InvoiceState::Open) => {}
                Err(error) => tracing::debug!(%error, payment_hash = %hash, "not looked up"),
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Lets go of what these attempts hold, and sees to it that none of them wins later.
    ///
    /// # Errors
    /// Nonsense, or a ledger that fails or is slow; then it must be repeated.
    pub async fn abandon(&self, request: &AbandonRequest) -> Result<(), ClaimError> {
        check_vm(&request.vm)?;
        if request.attempts.len() > MAX_ABANDONED {
            return Err(ClaimError::Invalid("too many attempts"));
        }
        let attempts = request
            .attempts
            .iter()
            .map(|one| Ok((one.payment_hash, attempt_id(&one.attempt)?)))
            .collect::<Result<Vec<_>, ClaimError>>()?;
        let count = attempts.len() as u64;
        let work = tokio::time::timeout(DEADLINE, self.ledger.abandon(attempts)).await;
        let freed = work.map_err(|_| ClaimError::Timeout)??;
        self.metrics.abandoned.inc_by(count);
        self.metrics.freed.inc_by(freed as u64);
        Ok(())
    }
}

fn check_vm(vm: &str) -> Result<(), ClaimError> {
    match is_random_name(vm) {
        true => Ok(()),
        false => Err(ClaimError::Invalid("vm must be 32 hexadecimal digits")),
    }
}

fn attempt_id(text: &str) -> Result<AttemptId, ClaimError> {
    AttemptId::from_hex(text)
        .map_err(|_| ClaimError::Invalid("attempt must be 32 hexadecimal digits"))
}
