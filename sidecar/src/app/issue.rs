//! Offers: limits first, then an invoice from the pool, a token for it, a durable row, and out.

mod limits;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use protocol::amount::Msat;
use protocol::api::{MAX_OFFERS_PER_REQUEST, Offer, OfferTemplate, Offers, OffersRequest};
use protocol::l402::{Identifier, TokenId, caveats_for, mint};
use protocol::time::UnixSeconds;

use self::limits::{Granted, Limits, lock};
use super::pool::{PoolError, PoolKey, Pools, Standing};
use super::state::{IssuingKey, StateError, StateKeeper};
use crate::config::OffersConfig;
use crate::domain::invoice::Invoice;
use crate::domain::ledger::{LedgerError, OfferBatch};
use crate::domain::offer::{OfferRow, Scheme, Validity, token_validity};
use crate::domain::ports::{Clock, Ledger, Lightning, Random, RandomError};
use crate::metrics::{Metrics, OfferLabels, OfferOutcome};

/// How long a request waits for the node. With what follows it stays below the filter's callout
/// timeout of 3 s, so that our own answer arrives and not Envoy's.
const PATIENCE: Duration = Duration::from_millis(2_300);
/// The same for the whole request.
const DEADLINE: Duration = Duration::from_millis(2_800);
/// When to come again after a fault of ours.
const RETRY_SOON: Duration = Duration::from_secs(2);
/// When to come again when all unpaid invoices are out: some will have expired.
const RETRY_LATER: Duration = Duration::from_secs(10);

const LONGEST_NAME: usize = 128;
const MOST_CAVEATS: usize = 60;
const LONGEST_CAVEAT: usize = 1_024;
const LONGEST_PREFIX: usize = 64;

/// Why there is no offer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum IssueError {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// This client prefix has asked too often.
    #[error("too many offers were asked for from this address")]
    LimitedClient(Duration),
    /// All clients together have.
    #[error("too many offers were asked for")]
    LimitedOverall(Duration),
    /// There is no invoice.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// There is no key, or no trust in the one we know.
    #[error(transparent)]
    State(#[from] StateError),
    /// The offer could not be written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// There are no random bytes.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// It took too long.
    #[error("the ledger did not answer in time")]
    Timeout,
}

impl IssueError {
    /// When it makes sense to ask again; `None`: never.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Invalid(_) => None,
            Self::LimitedClient(wait) | Self::LimitedOverall(wait) => Some(*wait),
            Self::Pool(PoolError::TooManyOutstanding) => Some(RETRY_LATER),
            _ => Some(RETRY_SOON),
        }
    }

    const fn outcome(&self) -> OfferOutcome {
        match self {
            Self::Invalid(_) => OfferOutcome::Invalid,
            Self::LimitedClient(_) => OfferOutcome::LimitedClient,
            Self::LimitedOverall(_) => OfferOutcome::LimitedOverall,
            Self::Pool(PoolError::TooManyOutstanding) => OfferOutcome::TooManyOutstanding,
            Self::Pool(PoolError::TooManyWaiting) => OfferOutcome::TooManyWaiting,
            Self::Pool(PoolError::Timeout) => OfferOutcome::Timeout,
            Self::Pool(_) => OfferOutcome::NodeUnavailable,
            Self::State(_) | Self::Ledger(_) | Self::Random(_) | Self::Timeout => {
                OfferOutcome::Ledger
            }
        }
    }
}

/// Makes offers.
pub struct Issuer<L, N> {
    ledger: Arc<L>,
    state: Arc<StateKeeper<L>>,
    pools: Arc<Pools<N>>,
    limits: Mutex<Limits>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    metrics: Arc<Metrics>,
}

impl<L: Ledger, N: Lightning> Issuer<L, N> {
    /// With full limits.
    #[must_use]
    pub fn new(
        ledger: Arc<L>,
        state: Arc<StateKeeper<L>>,
        pools: Arc<Pools<N>>,
        config: OffersConfig,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let limits = Mutex::new(Limits::new(&config, clock.monotonic()));
        Self {
            ledger,
            state,
            pools,
            limits,
            clock,
            random,
            metrics,
        }
    }

    /// The pools behind the offers.
    #[must_use]
    pub const fn pools(&self) -> &Arc<Pools<N>> {
        &self.pools
    }

    /// Asks the ledger how many offers are out.
    ///
    /// # Errors
    /// The ledger fails.
    pub async fn recount(&self) -> Result<(), LedgerError> {
        self.pools.recount(&*self.ledger).await
    }

    /// Forgets what limits need not remember.
    pub fn tidy_limits(&self) {
        let now = self.clock.monotonic();
        lock(&self.limits).forget_full(now);
    }

    /// Makes at least one offer and at most as many as asked for.
    ///
    /// To be run to its end even if nobody waits for the answer any more, since it takes invoices
    /// out of the pool. A repeated `request_id` gets fresh offers: an answer that was lost has
    /// been seen by nobody.
    ///
    /// # Errors
    /// There is none, and why.
    pub async fn offers(&self, request: &OffersRequest) -> Result<Offers, IssueError> {
        let work = tokio::time::timeout(DEADLINE, self.within_limits(request)).await;
        let result = work.unwrap_or(Err(IssueError::Timeout));
        let outcome = result
            .as_ref()
            .map_or_else(IssueError::outcome, |_| OfferOutcome::Issued);
        self.metrics
            .offers
            .get_or_create(&OfferLabels { outcome })
            .inc();
        result
    }

    async fn within_limits(&self, request: &OffersRequest) -> Result<Offers, IssueError> {
        check(request)?;
        let mut granted = Granted::take(
            &self.limits,
            request.client.as_ref(),
            request.count,
            self.clock.monotonic(),
        )?;
        let standing = match &request.client {
            Some(client) if client.has_paid => Standing::HasPaid,
            _ => Standing::New,
        };
        let offers = self
            .issue(&request.template, granted.unused, standing)
            .await?;
        granted.use_up(offers.offers.len());
        Ok(offers)
    }

    async fn issue(
        &self,
        template: &OfferTemplate,
        count: u16,
        standing: Standing,
    ) -> Result<Offers, IssueError> {
        let key = PoolKey {
            service: template.service.clone(),
            amount: template.price_msat,
        };
        let taken = self.pools.take(&key, count, standing, PATIENCE).await?;
        let result = self.hand_out(template, taken.invoices()).await;
        match &result {
            Ok(_) => taken.written(),
            Err(IssueError::Ledger(LedgerError::Store(_))) => taken.discard(),
            Err(_) => taken.give_back(),
        }
        result.map(|offers| Offers { offers })
    }

    async fn hand_out(
        &self,
        template: &OfferTemplate,
        invoices: &[Invoice],
    ) -> Result<Vec<Offer>, IssueError> {
        match self
            .try_hand_out(template, invoices, self.state.issuing_key()?)
            .await
        {
            // A rotation has just gone on; the new key is known to every filter.
            Err(IssueError::Ledger(LedgerError::NotCurrent(_))) => {
                self.state.refresh().await?;
                self.try_hand_out(template, invoices, self.state.issuing_key()?)
                    .await
            }
            other => other,
        }
    }

    async fn try_hand_out(
        &self,
        template: &OfferTemplate,
        invoices: &[Invoice],
        key: IssuingKey,
    ) -> Result<Vec<Offer>, IssueError> {
        let now = self.clock.now();
        let mut rows = Vec::with_capacity(invoices.len());
        let mut offers = Vec::with_capacity(invoices.len());
        for invoice in invoices {
            let show_until = self.pools.window().show_until(invoice.expires);
            let row = OfferRow {
                payment_hash: invoice.payment_hash,
                token_id: self.token_id(key.generation)?,
                service: template.service.clone(),
                scheme: Scheme::L402,
                amount: template.price_msat,
                created: now,
                expires: invoice.expires.max(now),
                valid_until: token_validity(invoice.expires, template.lifetime_seconds),
            };
            offers.push(offer(template, invoice, &row, &key, show_until));
            rows.push(row);
        }
        self.ledger
            .record_offers(OfferBatch {
                generation: key.generation,
                offers: rows,
            })
            .await?;
        Ok(offers)
    }

    fn token_id(&self, generation: u8) -> Result<TokenId, RandomError> {
        let [_, random @ ..] = self.random.secret()?;
        Ok(TokenId::new(generation, random))
    }
}

fn offer(
    template: &OfferTemplate,
    invoice: &Invoice,
    row: &OfferRow,
    key: &IssuingKey,
    show_until: UnixSeconds,
) -> Offer {
    let identifier = Identifier {
        payment_hash: row.payment_hash,
        token_id: row.token_id,
    };
    let end = match row.valid_until {
        Validity::Forever => None,
        Validity::Until(end) => Some(end),
    };
    let root_key = key.key.root_key(&identifier);
    Offer {
        payment_hash: row.payment_hash.to_string(),
        invoice: invoice.bolt11.clone(),
        macaroon: mint(&root_key, &identifier, caveats_for(template, end)).to_base64(),
        show_until: show_until.0,
    }
}

/// The filter's policy was checked, so this only keeps nonsense out of tokens and ledger.
fn check(request: &OffersRequest) -> Result<(), IssueError> {
    let invalid = |what: &str| Err(IssueError::Invalid(what.to_owned()));
    if request.count == 0 || request.count > MAX_OFFERS_PER_REQUEST {
        return invalid("count must be from 1 to 256");
    }
    let template = &request.template;
    if template.price_msat == Msat::ZERO {
        return invalid("price_msat must be at least 1");
    }
    if !is_name(&template.service) || !template.capabilities.iter().all(|name| is_name(name)) {
        return invalid("names of services and capabilities have letters, digits, - and _ only");
    }
    let caveats = &template.constraints;
    let is_caveat = |(condition, value): &(String, String)| {
        is_name(condition)
            && condition.len() + value.len() < LONGEST_CAVEAT
            && !value.contains(|c: char| c.is_control())
    };
    if caveats.len() + template.capabilities.len() > MOST_CAVEATS || !caveats.iter().all(is_caveat)
    {
        return invalid("too many, too long or malformed constraints");
    }
    if request
        .client
        .as_ref()
        .is_some_and(|client| client.prefix.len() > LONGEST_PREFIX)
    {
        return invalid("client prefix is too long");
    }
    Ok(())
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= LONGEST_NAME
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

#[cfg(test)]
mod tests;
