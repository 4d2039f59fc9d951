//! The price that a session is debited is that of the challenge presented, if the service has
//! offered it within the challenge's life (design section 3, X3).

use protocol::amount::Sat;
use protocol::policy::{PluginConfig, Policy};
use protocol::time::UnixSeconds;

/// Former prices that are remembered, of all services together.
const MOST: usize = 1_024;
/// Longest life of a challenge that may have been issued at a price just before it changed, as long
/// as no longer one was seen.
const LEAST_LIFE_SECONDS: u64 = 600;

/// A price that a service had under an older configuration.
#[derive(Clone, Debug)]
struct Former {
    service: String,
    price: Sat,
    /// No challenge with it lives longer.
    until: UnixSeconds,
}

/// Prices of older configurations whose challenges may still be presented.
#[derive(Default)]
pub(in crate::flow) struct FormerPrices {
    all: Vec<Former>,
    /// The latest end of a challenge that could be shown.
    latest: UnixSeconds,
}

impl FormerPrices {
    /// Deposit offers that end then may be shown.
    pub(in crate::flow) fn note_end(&mut self, expires: UnixSeconds) {
        self.latest = self.latest.max(expires);
    }

    /// Takes over from the gate of an older configuration what it knows, and its own prices where
    /// they have changed.
    pub(in crate::flow) fn inherit(
        &mut self,
        config: &PluginConfig,
        other: &Self,
        older: &Policy,
        now: UnixSeconds,
    ) {
        self.latest = self.latest.max(other.latest);
        let least = UnixSeconds(now.0.saturating_add(LEAST_LIFE_SECONDS));
        let until = other.latest.max(least);
        let services = config.policy.services();
        let changed = older.services().iter().filter_map(|service| {
            let price = service.session()?.price;
            let same = services.iter().find(|one| one.name() == service.name())?;
            let is_changed = same.session()?.price != price;
            is_changed.then(|| Former {
                service: service.name().to_owned(),
                price,
                until,
            })
        });
        self.all.extend(changed);
        self.all.extend(other.all.iter().cloned());
        self.all.retain(|former| now < former.until);
        self.all.truncate(MOST);
    }

    /// Whether a service that now sells for `price` may be paid by this challenge.
    pub(in crate::flow) fn accept(
        &self,
        (service, price): (&str, Sat),
        (asked, expires): (Sat, UnixSeconds),
        now: UnixSeconds,
    ) -> bool {
        asked == price
            || now < expires
                && self.all.iter().any(|former| {
                    former.price == asked && now < former.until && former.service == service
                        // Issued before the price changed, and not by a gate that sells beside.
                        && expires <= former.until
                })
    }
}
