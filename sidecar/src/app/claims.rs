//! Claims of charges: everything that could refuse the request was looked at by the filter, the
//! preimage too; the ledger says whether this attempt may be served for the payment.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use protocol::amount::Sat;
use protocol::api::charge::{
    AbandonRequest, Claim, ClaimRequest, ClaimsRequest, MAX_ABANDONED, MAX_CLAIMS,
};
use protocol::time::UnixSeconds;

use super::DEADLINE;
use super::names::{is_challenge_id, is_name, is_random_name};
use super::payments::{Arrival, Payments};
use crate::domain::claim::{AttemptId, ClaimTimes, Claimed, NewClaim};
use crate::domain::ledger::LedgerError;
use crate::domain::ports::{Clock, Ledger, Lightning};
use crate::metrics::{ClaimLabels, ClaimOutcome, Metrics};

/// No challenge lives nearly as long; its claim would be remembered as long.
pub(super) const LONGEST_LIFE: Duration = Duration::from_secs(31 * 86_400);

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
    payments: Arc<Payments<L, N>>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

impl<L: Ledger, N: Lightning> Claims<L, N> {
    /// On this ledger.
    #[must_use]
    pub fn new(
        ledger: Arc<L>,
        payments: Arc<Payments<L, N>>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            ledger,
            payments,
            clock,
            metrics,
        }
    }

    /// Who has each payment, decided at once and each for itself. The answer to a lost answer is the
    /// same again; what an attempt won and did not use must be [abandoned](Self::abandon), after an
    /// error each of them: some may have won.
    ///
    /// # Errors
    /// Nonsense, or a ledger that fails or is slow, for any of them.
    pub async fn claim(&self, request: &ClaimsRequest) -> Result<Vec<Claim>, ClaimError> {
        check_vm(&request.vm)?;
        if request.claims.is_empty() || request.claims.len() > MAX_CLAIMS {
            return Err(ClaimError::Invalid("claims must be 1 to 64"));
        }
        let claims = request.claims.iter();
        let claims = claims.map(|one| Ok((one, self.read(one)?)));
        let claims = claims.collect::<Result<Vec<_>, ClaimError>>();
        let claims = claims.inspect_err(|_| self.count(ClaimOutcome::Invalid))?;
        let decided = claims
            .into_iter()
            .map(|(request, claim)| self.claim_one(request, claim));
        join_all(decided).await.into_iter().collect()
    }

    async fn claim_one(
        &self,
        request: &ClaimRequest,
        claim: NewClaim,
    ) -> Result<Claim, ClaimError> {
        let work = tokio::time::timeout(DEADLINE, self.decide(claim, request.settled)).await;
        let result = work.unwrap_or(Err(ClaimError::Timeout));
        self.count(match &result {
            Ok(Claim::Won) => ClaimOutcome::Won,
            Ok(Claim::Lost) => ClaimOutcome::Lost,
            Ok(Claim::Busy) => ClaimOutcome::Busy,
            Ok(Claim::Unsettled) => ClaimOutcome::Unsettled,
            Err(ClaimError::Invalid(_)) => ClaimOutcome::Invalid,
            Err(ClaimError::Ledger(_) | ClaimError::Timeout) => ClaimOutcome::Ledger,
        });
        tracing::debug!(payment_hash = %request.payment_hash, ?result, "claim");
        result
    }

    fn count(&self, outcome: ClaimOutcome) {
        let labels = ClaimLabels { outcome };
        self.metrics.claims.get_or_create(&labels).inc();
    }

    async fn decide(&self, claim: NewClaim, settled: bool) -> Result<Claim, ClaimError> {
        if settled {
            let arrival = self.payments.arrival(claim.payment_hash).await?;
            if !matches!(arrival, Arrival::Sold(_) | Arrival::Foreign) {
                return Ok(Claim::Unsettled);
            }
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
        let id = &request.challenge_id;
        if !is_challenge_id(id) {
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
