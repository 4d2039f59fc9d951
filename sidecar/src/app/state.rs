//! What filters poll: derived keys and deny list, kept in memory and read anew from the ledger
//! when its version changes; and the steps of a key rotation.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use protocol::api::{
    Bootstrap, BootstrapQuery, KeyGeneration, KeyState, MAX_REVOCATIONS, Revocations,
};
use protocol::encoding::hex_encode;
use protocol::keys::{L402Key, PaymentKey};

use super::clocks::Clocks;
use super::keys::MasterKeys;
use super::names::is_random_name;
use crate::config::FiltersConfig;
use crate::domain::deny_list::Version;
use crate::domain::keys::{Behind, FilterRegistry, Generation, Promotion};
use crate::domain::ledger::{LedgerError, Snapshot};
use crate::domain::ports::{Clock, Ledger, RandomError};
use crate::metrics::{Metrics, StateLabels};

/// Without a look at the ledger for this long we do not know what was revoked, and say so.
const TRUSTED_FOR: Duration = Duration::from_secs(5);
/// Filters sign challenges for a while with a key that is retired already, until they have polled:
/// twice as long as they may take.
const SIGNED_LATE: Duration = Duration::from_secs(60);
/// How often what expired is pruned.
const PRUNE_EVERY: Duration = Duration::from_secs(10);

/// How often other sidecars are told which filters polled here.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Why there is no state to work with.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// No random bytes for a key.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The operator's file does not hold the key of a generation.
    #[error("the key of generation {0} is not in the master key file")]
    KeyMissing(u8),
    /// The ledger could not be read for too long.
    #[error("the ledger could not be read for {} s", .0.as_secs())]
    Stale(Duration),
    /// No generation is current.
    #[error("no key generation is current")]
    NoCurrentKey,
    /// The name of a filter VM is not one.
    #[error("vm must be 32 hexadecimal digits")]
    InvalidVm,
}

/// One state, unchanging.
pub struct View {
    snapshot: Snapshot,
    keys: Vec<LiveKey>,
    /// [`Bootstrap::version`] of it.
    text: String,
}

/// A rotation under way.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rotation {
    /// The generation that is to become current.
    pub next: u8,
    /// Whether it may.
    pub promotion: Promotion,
    /// Who holds it up.
    pub behind: Vec<Behind>,
}

/// What filters get of one generation of the master secret.
struct LiveKey {
    generation: u8,
    state: KeyState,
    l402: L402Key,
    payment: PaymentKey,
}

/// The key to issue with.
#[derive(Clone)]
pub struct IssuingKey {
    /// Its generation.
    pub generation: u8,
    /// Makes root keys.
    pub key: L402Key,
}

/// Keeps the present [`View`] and the list of filters.
pub struct StateKeeper<L> {
    ledger: Arc<L>,
    master_keys: MasterKeys,
    clocks: Arc<Clocks<L>>,
    clock: Arc<dyn Clock>,
    poll: Duration,
    retired_for: Duration,
    view: RwLock<Option<(Arc<View>, Duration)>>,
    filters: Mutex<FilterRegistry>,
    /// A filter that polled here after this moment has yet to be told to other sidecars.
    told_until: Mutex<Option<Duration>>,
    live_window: Duration,
    metrics: Arc<Metrics>,
}

impl<L: Ledger> StateKeeper<L> {
    /// Nothing is read yet. A challenge lives as long as its invoice, `invoice_expiry` at most.
    #[must_use]
    pub fn new(
        ledger: Arc<L>,
        master_keys: MasterKeys,
        clocks: Arc<Clocks<L>>,
        clock: Arc<dyn Clock>,
        config: FiltersConfig,
        invoice_expiry: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        let registry = FilterRegistry::new(config.live_window, clock.monotonic());
        Self {
            ledger,
            master_keys,
            clocks,
            clock,
            poll: config.revocation_poll,
            retired_for: invoice_expiry.saturating_add(SIGNED_LATE),
            view: RwLock::new(None),
            filters: Mutex::new(registry),
            told_until: Mutex::new(None),
            live_window: config.live_window,
            metrics,
        }
    }

    /// Answers a filter: everything it must change, or `None` if that is nothing. Naming a
    /// version acknowledges it.
    ///
    /// # Errors
    /// The state is too old to be trusted, or `vm` is no name.
    pub fn bootstrap(&self, query: &BootstrapQuery) -> Result<Option<Bootstrap>, StateError> {
        if !is_random_name(&query.vm) {
            return Err(StateError::InvalidVm);
        }
        let view = self.view()?;
        let known = query
            .known
            .as_deref()
            .and_then(|text| view.known_version(text));
        self.lock_filters()
            .polled(&query.vm, known, self.clock.monotonic());
        if known == Some(view.snapshot.version) {
            return Ok(None);
        }
        Ok(Some(view.bootstrap_since(known)))
    }

    /// The key to issue with.
    ///
    /// # Errors
    /// The state is too old to be trusted, or no key is current.
    pub fn issuing_key(&self) -> Result<IssuingKey, StateError> {
        let view = self.view()?;
        let current = view.keys.iter().find(|key| key.state == KeyState::Current);
        current
            .map(|key| IssuingKey {
                generation: key.generation,
                key: key.l402.clone(),
            })
            .ok_or(StateError::NoCurrentKey)
    }

    /// Age of what is known, as an error if too old.
    ///
    /// # Errors
    /// [`StateError::Stale`].
    pub fn view(&self) -> Result<Arc<View>, StateError> {
        let view = self
            .view
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let now = self.clock.monotonic();
        let Some((view, read_at)) = view else {
            return Err(StateError::Stale(now));
        };
        let age = now.saturating_sub(read_at);
        if age > TRUSTED_FOR.max(self.poll.saturating_mul(4)) {
            return Err(StateError::Stale(age));
        }
        Ok(view)
    }

    /// Reads the ledger if its version has changed.
    ///
    /// # Errors
    /// The ledger fails or a key cannot be found; the state before stays.
    pub async fn refresh(&self) -> Result<(), StateError> {
        let asked_at = self.clock.monotonic();
        let version = self.ledger.version().await?;
        let kept = self
            .view
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let view = match kept {
            Some((view, _)) if view.snapshot.version == version => view,
            _ => Arc::new(self.read_view().await?),
        };
        let mut slot = self.view.write().unwrap_or_else(PoisonError::into_inner);
        // Two refreshes may overtake each other; time goes on only.
        if slot
            .as_ref()
            .is_none_or(|(_, read_at)| *read_at <= asked_at)
        {
            *slot = Some((view, asked_at));
        }
        Ok(())
    }

    /// Follows the ledger and moves rotations on, for ever.
    pub async fn keep(&self) {
        let mut ticks = tokio::time::interval(self.poll);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut pruned = self.clock.monotonic();
        loop {
            ticks.tick().await;
            if let Err(error) = self.tick(&mut pruned).await {
                tracing::error!(%error, "state of the ledger cannot be followed");
            }
        }
    }

    /// One step of [`Self::keep`].
    ///
    /// # Errors
    /// As [`Self::refresh`].
    pub async fn tick(&self, pruned: &mut Duration) -> Result<(), StateError> {
        self.refresh().await?;
        self.share_filters().await?;
        self.promote_if_acknowledged().await?;
        let now = self.clock.monotonic();
        if now.saturating_sub(*pruned) >= PRUNE_EVERY {
            *pruned = now;
            self.lock_filters().forget_silent(now);
            let agree = self.clocks.agree().await?;
            if agree && self.ledger.prune_expired(self.clock.unix_millis()).await? > 0 {
                self.refresh().await?;
            }
        }
        self.show();
        Ok(())
    }

    /// The rotation that is under way, if there is one.
    ///
    /// # Errors
    /// The state is too old to be trusted.
    pub fn rotation(&self) -> Result<Option<Rotation>, StateError> {
        let view = self.view()?;
        let (filters, now) = (self.lock_filters(), self.clock.monotonic());
        Ok(view.next_generation().map(|next| Rotation {
            next: next.id,
            promotion: filters.promotion(next.added, now),
            behind: filters.behind(next.added, now),
        }))
    }

    /// Lets sidecars on one ledger know of each other's filters.
    async fn share_filters(&self) -> Result<(), StateError> {
        let now = self.clock.monotonic();
        let until = *self.lock_told_until();
        if until.is_some_and(|until| now.saturating_sub(until) < TELL_EVERY) {
            return Ok(());
        }
        let heard = (self.lock_filters()).heard_since(until.unwrap_or_default(), now);
        let all = self.ledger.share_filters(heard, self.live_window).await?;
        if let Some(all) = all {
            // No earlier than it was: rather too many are live than too few.
            let told_at = self.clock.monotonic();
            self.lock_filters().told(all, told_at);
        }
        *self.lock_told_until() = Some(now);
        Ok(())
    }

    async fn promote_if_acknowledged(&self) -> Result<(), StateError> {
        let view = self.view()?;
        let Some(next) = view.next_generation() else {
            return Ok(());
        };
        let promotion = {
            let (mut filters, now) = (self.lock_filters(), self.clock.monotonic());
            filters.notice(next.added, now);
            filters.promotion(next.added, now)
        };
        if promotion != Promotion::Allowed {
            tracing::debug!(generation = next.id, ?promotion, "key rotation waits");
            return Ok(());
        }
        // It says until when the retired one stays.
        if !self.clocks.agree().await? {
            return Ok(());
        }
        if self
            .ledger
            .promote(next.id, self.clock.unix_millis(), self.retired_for)
            .await?
        {
            tracing::info!(generation = next.id, "key generation is current");
        }
        self.refresh().await
    }

    async fn read_view(&self) -> Result<View, StateError> {
        let snapshot = self.ledger.snapshot().await?;
        let mut keys = Vec::with_capacity(snapshot.generations.len());
        for generation in &snapshot.generations {
            let master = self.master_keys.of(generation);
            let master = master.ok_or(StateError::KeyMissing(generation.id))?;
            keys.push(LiveKey {
                generation: generation.id,
                state: generation.state,
                l402: master.derive_l402(),
                payment: master.derive_payment(),
            });
        }
        let text = format!("{}.{}", hex_encode(&snapshot.epoch.0), snapshot.version.0);
        tracing::info!(
            version = snapshot.version.0,
            generations = keys.len(),
            revocations = snapshot.deny_list.len(),
            "state read from the ledger"
        );
        if snapshot.deny_list.len() > MAX_REVOCATIONS {
            // Only in a ledger of an earlier version.
            tracing::error!(
                revocations = snapshot.deny_list.len(),
                limit = MAX_REVOCATIONS,
                "the deny list is too long for a filter that starts"
            );
        }
        Ok(View {
            snapshot,
            keys,
            text,
        })
    }

    fn show(&self) {
        let live = self.lock_filters().live(self.clock.monotonic());
        self.metrics.filters_live.set(to_gauge(live));
        let Ok(view) = self.view() else { return };
        self.metrics
            .revocations
            .set(to_gauge(view.snapshot.deny_list.len()));
        self.metrics
            .revocations_limit
            .set(to_gauge(MAX_REVOCATIONS));
        for (name, state) in [
            ("next", KeyState::Next),
            ("current", KeyState::Current),
            ("retired", KeyState::Retired),
        ] {
            let count = view.keys.iter().filter(|key| key.state == state).count();
            let labels = StateLabels { state: name };
            self.metrics
                .generations
                .get_or_create(&labels)
                .set(to_gauge(count));
        }
    }

    fn lock_told_until(&self) -> MutexGuard<'_, Option<Duration>> {
        self.told_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_filters(&self) -> MutexGuard<'_, FilterRegistry> {
        self.filters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl View {
    fn next_generation(&self) -> Option<&Generation> {
        let mut generations = self.snapshot.generations.iter();
        generations.find(|generation| generation.state == KeyState::Next)
    }

    /// The version that a filter names, if it is one of this ledger and not of its future.
    fn known_version(&self, text: &str) -> Option<Version> {
        let (epoch, version) = text.split_once('.')?;
        let version = Version(version.parse().ok()?);
        let is_ours = epoch == hex_encode(&self.snapshot.epoch.0);
        (is_ours && version <= self.snapshot.version).then_some(version)
    }

    fn bootstrap_since(&self, known: Option<Version>) -> Bootstrap {
        let changes = self.snapshot.deny_list.changes_since(known);
        let keys = self.keys.iter().map(|key| KeyGeneration {
            generation: key.generation,
            state: key.state,
            l402: key.l402.expose_hex(),
            payment: key.payment.expose_hex(),
        });
        let hex = |hashes: Vec<[u8; 32]>| hashes.iter().map(|hash| hex_encode(hash)).collect();
        Bootstrap {
            version: self.text.clone(),
            keys: keys.collect(),
            revocations: Revocations {
                full: changes.full,
                add: hex(changes.add),
                remove: hex(changes.remove),
            },
        }
    }
}

fn to_gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
