//! Offers: limits first, then an invoice from the pool, a durable row, and out; the same way for
//! whatever is sold ([`product`]).

mod charge;
mod l402;
mod limits;
mod product;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use protocol::api::charge::{ChargeOffers, ChargeOffersRequest};
use protocol::api::{Offers, OffersRequest};
use protocol::l402::TokenId;

use self::charge::{Ask, Charge, Deposit, Intent};
use self::limits::{Granted, Limits, lock};
use self::product::{Product, Wish};
use super::pool::{PoolError, PoolKey, Pools, Standing};
use super::state::{IssuingKey, StateError, StateKeeper};
use super::{DEADLINE, PATIENCE};
use crate::config::OffersConfig;
use crate::domain::invoice::Invoice;
use crate::domain::ledger::{LedgerError, OfferBatch};
use crate::domain::offer::OfferRow;
use crate::domain::ports::{Clock, Ledger, Lightning, Random, RandomError};
use crate::metrics::{Metrics, OfferLabels, OfferOutcome};

/// When to come again after a fault of ours.
const RETRY_SOON: Duration = Duration::from_secs(2);
/// When to come again when all unpaid invoices are out: some will have expired.
const RETRY_LATER: Duration = Duration::from_secs(10);

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
    /// The node made an invoice for something else.
    #[error("the Lightning node made an invoice with another amount or hash")]
    WrongInvoice,
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
            Self::Pool(_) | Self::WrongInvoice => OfferOutcome::NodeUnavailable,
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

    /// Makes at least one L402 offer and at most as many as asked for.
    ///
    /// To be run to its end even if nobody waits for the answer any more, since it takes invoices
    /// out of the pool. A repeated `request_id` gets fresh offers: an answer that was lost has
    /// been seen by nobody.
    ///
    /// # Errors
    /// There is none, and why.
    pub async fn offers(&self, request: &OffersRequest) -> Result<Offers, IssueError> {
        let wish = Wish {
            count: request.count,
            client: request.client.as_ref(),
            product: &request.template,
        };
        let offers = self.measured(wish.check(), wish).await?;
        Ok(Offers { offers })
    }

    /// The same for charges. Their invoices are from pools of their own, their limits are those
    /// of all offers.
    ///
    /// # Errors
    /// There is none, and why.
    pub async fn charges(&self, request: &ChargeOffersRequest) -> Result<ChargeOffers, IssueError> {
        self.payments::<Charge>(request).await
    }

    /// The same for deposits of sessions.
    ///
    /// # Errors
    /// There is none, and why.
    pub async fn deposits(
        &self,
        request: &ChargeOffersRequest,
    ) -> Result<ChargeOffers, IssueError> {
        self.payments::<Deposit>(request).await
    }

    async fn payments<I: Intent>(
        &self,
        request: &ChargeOffersRequest,
    ) -> Result<ChargeOffers, IssueError> {
        let wish = Wish {
            count: request.count,
            client: request.client.as_ref(),
            product: &Ask::<I>::of(request),
        };
        let checked = charge::check(request).and_then(|()| wish.check());
        let offers = self.measured(checked, wish).await?;
        Ok(ChargeOffers { offers })
    }

    async fn measured<P: Product>(
        &self,
        checked: Result<(), IssueError>,
        wish: Wish<'_, P>,
    ) -> Result<Vec<P::Offer>, IssueError> {
        let work = async {
            checked?;
            self.within_limits(wish).await
        };
        let result = tokio::time::timeout(DEADLINE, work).await;
        let result = result.unwrap_or(Err(IssueError::Timeout));
        let outcome = result
            .as_ref()
            .map_or_else(IssueError::outcome, |_| OfferOutcome::Issued);
        self.metrics
            .offers
            .get_or_create(&OfferLabels { outcome })
            .inc();
        result
    }

    async fn within_limits<P: Product>(
        &self,
        wish: Wish<'_, P>,
    ) -> Result<Vec<P::Offer>, IssueError> {
        let now = self.clock.monotonic();
        let mut granted = Granted::take(&self.limits, wish.client, wish.count, now)?;
        let standing = match wish.client {
            Some(client) if client.has_paid => Standing::HasPaid,
            _ => Standing::New,
        };
        let offers = self.issue(wish.product, granted.unused, standing).await?;
        granted.use_up(offers.len());
        Ok(offers)
    }

    async fn issue<P: Product>(
        &self,
        product: &P,
        count: u16,
        standing: Standing,
    ) -> Result<Vec<P::Offer>, IssueError> {
        let key = PoolKey {
            scheme: P::SCHEME,
            service: product.service().to_owned(),
            amount: product.amount(),
        };
        let taken = self.pools.take(&key, count, standing, PATIENCE).await?;
        let result = self.hand_out(product, taken.invoices()).await;
        match &result {
            Ok(_) => taken.written(),
            Err(IssueError::Ledger(LedgerError::Store(_)) | IssueError::WrongInvoice) => {
                taken.discard();
            }
            Err(_) => taken.give_back(),
        }
        result
    }

    async fn hand_out<P: Product>(
        &self,
        product: &P,
        invoices: &[Invoice],
    ) -> Result<Vec<P::Offer>, IssueError> {
        if !invoices.iter().all(|invoice| product.accepts(invoice)) {
            tracing::error!(
                service = product.service(),
                "the Lightning node made an invoice with another amount or hash"
            );
            return Err(IssueError::WrongInvoice);
        }
        match self
            .try_hand_out(product, invoices, self.state.issuing_key()?)
            .await
        {
            // A rotation has just gone on; the new key is known to every filter.
            Err(IssueError::Ledger(LedgerError::NotCurrent(_))) => {
                self.state.refresh().await?;
                self.try_hand_out(product, invoices, self.state.issuing_key()?)
                    .await
            }
            other => other,
        }
    }

    async fn try_hand_out<P: Product>(
        &self,
        product: &P,
        invoices: &[Invoice],
        key: IssuingKey,
    ) -> Result<Vec<P::Offer>, IssueError> {
        let now = self.clock.now();
        let mut rows = Vec::with_capacity(invoices.len());
        let mut offers = Vec::with_capacity(invoices.len());
        for invoice in invoices {
            let show_until = self.pools.window().show_until(invoice.expires);
            let row = OfferRow {
                payment_hash: invoice.payment_hash,
                token_id: self.token_id(key.generation)?,
                service: product.service().to_owned(),
                scheme: P::SCHEME,
                amount: product.amount(),
                created: now,
                expires: invoice.expires.max(now),
                valid_until: product.valid_until(invoice),
                node: invoice.node,
            };
            offers.push(product.offer(invoice, &row, &key, show_until));
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

fn invalid<T>(what: &str) -> Result<T, IssueError> {
    Err(IssueError::Invalid(what.to_owned()))
}

#[cfg(test)]
mod tests;
