//! Deposit offers that are shown again (design section 5).
//!
//! Many clients ask for a 402 before every request of a session and never pay what it offers. A
//! client prefix that has an open session is therefore shown the same few deposits in turn, as long
//! as nobody has presented them, or used the session that one began, and there is time to pay.
//! Tokens and charges are always fresh.

use std::collections::VecDeque;

use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;

use crate::flow::limits::Prefix;
use crate::flow::stock::{Goods, Offer};

/// Deposits that one prefix is shown in turn, by service.
const MOST_SHOWN: usize = 4;
/// Shown again only with as much time left to pay.
const LEAST_LIFE_SECONDS: u64 = 300;
/// Prefixes that are remembered.
const MOST_PREFIXES: usize = 1_024;
/// Services of which deposits are remembered for one prefix.
const MOST_SERVICES: usize = 16;

/// What one prefix has been shown.
struct Shown {
    prefix: Prefix,
    /// It has an open session until then, as far as is known, in milliseconds.
    until_ms: u64,
    /// By service, the one to be shown next first.
    offers: Vec<(usize, VecDeque<Offer>)>,
}

/// What was shown to prefixes with an open session.
#[derive(Default)]
pub(in crate::flow) struct Deposits {
    prefixes: Vec<Shown>,
}

impl Deposits {
    /// The prefix has an open session.
    pub(in crate::flow) fn has_session(&mut self, prefix: Prefix, until_ms: u64) {
        if let Some(shown) = self.prefixes.iter_mut().find(|one| one.prefix == prefix) {
            shown.until_ms = until_ms;
            return;
        }
        if self.prefixes.len() >= MOST_PREFIXES {
            let prefixes = self.prefixes.iter().enumerate();
            let oldest = prefixes.min_by_key(|(_, one)| one.until_ms);
            if let Some((place, _)) = oldest {
                self.prefixes.swap_remove(place);
            }
        }
        self.prefixes.push(Shown {
            prefix,
            until_ms,
            offers: Vec::new(),
        });
    }

    fn of(&mut self, prefix: Prefix, service: usize, now_ms: u64) -> Option<&mut VecDeque<Offer>> {
        let place = self.prefixes.iter().position(|one| one.prefix == prefix)?;
        if self.prefixes.get(place)?.until_ms <= now_ms {
            self.prefixes.swap_remove(place);
            return None;
        }
        let shown = self.prefixes.get_mut(place)?;
        let place = shown.offers.iter().position(|(of, _)| *of == service);
        let place = match place {
            Some(place) => place,
            None if shown.offers.len() < MOST_SERVICES => {
                shown.offers.push((service, VecDeque::new()));
                shown.offers.len() - 1
            }
            None => return None,
        };
        shown.offers.get_mut(place).map(|(_, offers)| offers)
    }

    /// A deposit that the prefix has seen, if it has seen enough of them.
    pub(in crate::flow) fn again(
        &mut self,
        prefix: Prefix,
        service: usize,
        now_ms: u64,
    ) -> Option<Offer> {
        let offers = self.of(prefix, service, now_ms)?;
        let least = now_ms / 1_000 + LEAST_LIFE_SECONDS;
        offers.retain(|offer| offer.is_payable_until(UnixSeconds(least)));
        if offers.len() < MOST_SHOWN {
            return None;
        }
        offers.rotate_left(1);
        offers.back().cloned()
    }

    /// A fresh deposit has been shown to the prefix.
    pub(in crate::flow) fn shown(&mut self, prefix: Prefix, service: usize, offer: &Offer) {
        if matches!(offer.goods, Goods::Deposit(_))
            && let Some(offers) = self.of(prefix, service, 0)
            && offers.len() < MOST_SHOWN
        {
            offers.push_back(offer.clone());
        }
    }

    /// Somebody has paid for it: nobody is shown it any more.
    pub(in crate::flow) fn presented(&mut self, hash: PaymentHash) {
        let is_other = |offer: &Offer| !matches!(offer.goods, Goods::Deposit(ref invoiced) if invoiced.payment_hash == hash);
        for shown in &mut self.prefixes {
            for (_, offers) in &mut shown.offers {
                offers.retain(is_other);
            }
        }
    }
}
