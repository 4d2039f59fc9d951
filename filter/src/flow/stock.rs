//! A small stock of offers per service and scheme, so that a 402 is one local reply.
//!
//! Filled in batches ahead of need: the target follows the demand of the last seconds, and nothing
//! is asked for on behalf of an idle service. An empty stock makes requests wait, and those ask
//! for what they need at once.

use std::collections::VecDeque;

use protocol::amount::Sat;
use protocol::api::{MAX_OFFERS_PER_REQUEST, OfferTemplate};
use protocol::hash::PaymentHash;
use protocol::payment::request::Network;
use protocol::time::UnixSeconds;

use protocol::json::Json;

/// Smallest stock of a service in demand.
const LEAST: u64 = 4;
/// Largest stock of one service.
const MOST: u64 = 512;
/// A service without demand for as long is idle.
const IDLE_MS: u64 = 30_000;
/// Batches under way at once for one service.
const CALLS: usize = 4;
const FIRST_BACKOFF_MS: u64 = 250;
const LONGEST_BACKOFF_MS: u64 = 10_000;

/// What a 402 shows: the part of [`protocol::api::Offer`] or
/// [`protocol::api::charge::ChargeOffer`] that matters here.
#[derive(Clone)]
pub(super) struct Offer {
    pub(super) invoice: String,
    pub(super) goods: Goods,
    /// Unix seconds.
    show_until: u64,
}

/// What its invoice pays for.
#[derive(Clone)]
pub(super) enum Goods {
    /// This macaroon.
    Token(String),
    /// One response. The challenge is made when the offer is shown.
    Charge(Invoiced),
    /// A session, or more for one. The same of the challenge.
    Deposit(Invoiced),
}

/// What a challenge says of its invoice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Invoiced {
    pub(super) payment_hash: PaymentHash,
    pub(super) network: Network,
    pub(super) expires: UnixSeconds,
}

impl Offer {
    /// `None` unless both texts can stand between quotation marks in a header.
    pub(super) fn read(json: &Json<'_>, of: Scheme) -> Option<Self> {
        let text = |key, most| {
            let text = json.text(key)?;
            let fits = (1..=most).contains(&text.len()) && is_plain(text.as_bytes());
            fits.then(|| text.to_owned())
        };
        let invoice = text("invoice", protocol::api::Offer::MAX_INVOICE_LEN)?;
        let goods = match of {
            Scheme::L402 => Goods::Token(text("macaroon", MAX_MACAROON)?),
            Scheme::Charge | Scheme::Session if !super::payment::IS_BUILT_IN => return None,
            Scheme::Charge | Scheme::Session => {
                let invoiced = Invoiced {
                    payment_hash: json.text("payment_hash")?.parse().ok()?,
                    network: Network::of_invoice(&invoice)?,
                    expires: UnixSeconds(json.number("expires")?),
                };
                match of {
                    Scheme::Session => Goods::Deposit(invoiced),
                    _ => Goods::Charge(invoiced),
                }
            }
        };
        Some(Self {
            invoice,
            goods,
            show_until: json.number("show_until")?,
        })
    }
}

impl Offer {
    /// It can still be paid at that time. Tokens do not say.
    pub(super) fn is_payable_until(&self, end: UnixSeconds) -> bool {
        match &self.goods {
            Goods::Token(_) => false,
            Goods::Charge(invoiced) | Goods::Deposit(invoiced) => end <= invoiced.expires,
        }
    }
}

/// Digits of base64 and letters of bech32 only. Looks at all bytes whatever it finds: without a way
/// out of the loop it works on sixteen at a time, and offers come by the hundred.
fn is_plain(text: &[u8]) -> bool {
    text.iter().fold(true, |plain, byte| {
        let letter = (byte | 0x20).wrapping_sub(b'a') < 26;
        let digit = byte.wrapping_sub(b'0') < 10;
        plain & (letter | digit | (*byte == b'+') | (*byte == b'/') | (*byte == b'='))
    })
}

/// Two of them and two invoices have to fit into the headers of a reply.
const MAX_MACAROON: usize = 4 * 1024;

/// The sidecar would not, or could not, make offers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct NoOffers {
    /// 429 or 503.
    pub(super) status: u16,
    /// For the client's `Retry-After`.
    pub(super) retry_after_seconds: u64,
}

impl Goods {
    pub(super) const fn scheme(&self) -> Scheme {
        match self {
            Self::Token(_) => Scheme::L402,
            Self::Charge(_) => Scheme::Charge,
            Self::Deposit(_) => Scheme::Session,
        }
    }
}

/// By what a service is paid for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Scheme {
    L402,
    Charge,
    Session,
}

impl Scheme {
    /// In the order of challenges in a 402.
    pub(super) const ALL: [Self; 3] = [Self::L402, Self::Charge, Self::Session];
}

/// What the sidecar is asked for.
#[derive(Clone)]
pub(super) enum Wares {
    Tokens(OfferTemplate),
    Charges { service: String, amount: Sat },
    Deposits { service: String, deposit: Sat },
}

impl Wares {
    pub(super) const fn scheme(&self) -> Scheme {
        match self {
            Self::Tokens(_) => Scheme::L402,
            Self::Charges { .. } => Scheme::Charge,
            Self::Deposits { .. } => Scheme::Session,
        }
    }
}

/// The offers of one service by one scheme.
pub(super) struct Shelf {
    /// Number of the service in the policy.
    pub(super) service: usize,
    pub(super) wares: Wares,
    offers: VecDeque<Offer>,
    demand: Demand,
    calls: usize,
    /// How many offers the calls under way asked for.
    expected: usize,
    backoff_ms: u64,
    not_before_ms: u64,
    refused: Option<NoOffers>,
}

impl Shelf {
    pub(super) fn new(service: usize, wares: Wares) -> Self {
        Self {
            service,
            wares,
            offers: VecDeque::new(),
            demand: Demand::default(),
            calls: 0,
            expected: 0,
            backoff_ms: 0,
            not_before_ms: 0,
            refused: None,
        }
    }

    /// One request more wants an offer.
    pub(super) fn note_demand(&mut self, now_ms: u64) {
        self.demand.note(now_ms);
    }

    /// There is an offer that may still be shown; those that may not are dropped.
    pub(super) fn has(&mut self, now: UnixSeconds) -> bool {
        while self
            .offers
            .pop_front_if(|o| o.show_until <= now.0)
            .is_some()
        {}
        !self.offers.is_empty()
    }

    /// The oldest offer that may still be shown.
    pub(super) fn take(&mut self, now: UnixSeconds) -> Option<Offer> {
        self.has(now).then(|| self.offers.pop_front())?
    }

    /// Puts an offer back that nobody has seen.
    pub(super) fn put_back(&mut self, offer: Offer) {
        self.offers.push_front(offer);
    }

    /// Why requests need not wait: the sidecar has just said that there is nothing.
    pub(super) fn refusal(&self, now_ms: u64) -> Option<NoOffers> {
        self.refused.filter(|_| now_ms < self.not_before_ms)
    }

    /// How many offers to ask for now, given that `waiting` requests wait for one: those that they
    /// lack, and those that the stock lacks.
    fn lacking(&mut self, now_ms: u64, waiting: usize) -> (usize, usize) {
        if self.calls >= CALLS || now_ms < self.not_before_ms {
            return (0, 0);
        }
        let coming = self.len();
        let surplus = coming.saturating_sub(waiting);
        let target = usize::try_from(self.demand.target(now_ms)).unwrap_or_default();
        let ahead = if surplus * 2 < target {
            target - surplus
        } else {
            0
        };
        (waiting.saturating_sub(coming), ahead)
    }

    /// Whether there is anything to ask for.
    pub(super) fn may_want(&mut self, now_ms: u64, waiting: usize) -> bool {
        self.lacking(now_ms, waiting) != (0, 0)
    }

    /// How many offers to ask for now; all shelves together have room for `room` beyond what
    /// waiting requests need.
    pub(super) fn wanted(&mut self, now_ms: u64, waiting: usize, room: usize) -> Option<u16> {
        let (needed, ahead) = self.lacking(now_ms, waiting);
        let count = needed
            .saturating_add(ahead.min(room))
            .min(usize::from(MAX_OFFERS_PER_REQUEST));
        u16::try_from(count).ok().filter(|count| *count > 0)
    }

    pub(super) fn call_begun(&mut self, count: u16) {
        self.calls += 1;
        self.expected += usize::from(count);
    }

    fn call_ended(&mut self, count: u16) {
        self.calls = self.calls.saturating_sub(1);
        self.expected = self.expected.saturating_sub(usize::from(count));
    }

    pub(super) fn arrived(&mut self, count: u16, offers: Vec<Offer>) {
        self.call_ended(count);
        self.backoff_ms = 0;
        self.refused = None;
        self.offers.extend(offers);
    }

    /// No offers came: leave the sidecar alone for a while.
    pub(super) fn failed(&mut self, count: u16, now_ms: u64, why: NoOffers) {
        self.call_ended(count);
        self.backoff_ms = (self.backoff_ms * 2).clamp(FIRST_BACKOFF_MS, LONGEST_BACKOFF_MS);
        self.not_before_ms = now_ms.saturating_add(self.backoff_ms);
        self.refused = Some(why);
    }

    /// Offers that are here or on their way.
    pub(super) fn len(&self) -> usize {
        self.offers.len().saturating_add(self.expected)
    }
}

/// Offers taken per second, by the fuller of the last two seconds.
#[derive(Default)]
struct Demand {
    second: u64,
    this: u64,
    last: u64,
    latest_ms: Option<u64>,
}

impl Demand {
    fn note(&mut self, now_ms: u64) {
        self.roll(now_ms);
        self.this += 1;
        self.latest_ms = Some(now_ms);
    }

    fn roll(&mut self, now_ms: u64) {
        let second = now_ms / 1_000;
        if second != self.second {
            self.last = if second == self.second + 1 {
                self.this
            } else {
                0
            };
            self.this = 0;
            self.second = second;
        }
    }

    /// What lasts for a second and a quarter; zero for an idle service.
    fn target(&mut self, now_ms: u64) -> u64 {
        self.roll(now_ms);
        let rate = self.this.max(self.last);
        match self.latest_ms {
            Some(latest) if now_ms.saturating_sub(latest) < IDLE_MS => {
                rate.saturating_add(rate / 4).clamp(LEAST, MOST)
            }
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol::amount::Msat;

    use super::*;

    fn shelf() -> Shelf {
        let template = OfferTemplate {
            service: "weather".into(),
            tier: 0,
            price_msat: Msat::from_sat(10).unwrap(),
            lifetime_seconds: None,
            capabilities: Vec::new(),
            constraints: Vec::new(),
        };
        Shelf::new(0, Wares::Tokens(template))
    }

    fn offers(count: u16, show_until: u64) -> Vec<Offer> {
        let offer = Offer {
            invoice: String::new(),
            goods: Goods::Token(String::new()),
            show_until,
        };
        vec![offer; usize::from(count)]
    }

    fn filled(shelf: &mut Shelf, now_ms: u64, waiting: usize) -> u16 {
        let Some(count) = shelf.wanted(now_ms, waiting, 10_000) else {
            return 0;
        };
        shelf.call_begun(count);
        shelf.arrived(count, offers(count, 1_000_000));
        count
    }

    #[test]
    fn an_idle_service_holds_nothing_and_asks_for_nothing() {
        let mut shelf = shelf();
        assert_eq!(shelf.wanted(0, 0, 100), None);
        shelf.note_demand(1_000);
        assert_eq!(shelf.wanted(1_000, 0, 100), Some(4));
        assert_eq!(shelf.wanted(1_000 + IDLE_MS, 0, 100), None);
    }

    #[test]
    fn the_stock_follows_demand_between_its_bounds() {
        let mut shelf = shelf();
        for _ in 0..80 {
            shelf.note_demand(5_000);
        }
        assert_eq!(shelf.wanted(5_000, 0, 10_000), Some(100));
        for _ in 0..100_000 {
            shelf.note_demand(5_000);
        }
        assert_eq!(shelf.wanted(5_000, 0, 10_000), Some(MAX_OFFERS_PER_REQUEST));
    }

    #[test]
    fn it_is_filled_again_below_half() {
        let mut shelf = shelf();
        for _ in 0..80 {
            shelf.note_demand(5_000);
        }
        assert_eq!(filled(&mut shelf, 5_000, 0), 100);
        for _ in 0..50 {
            shelf.take(UnixSeconds(5)).unwrap();
        }
        assert_eq!(shelf.wanted(5_000, 0, 10_000), None);
        shelf.take(UnixSeconds(5)).unwrap();
        assert_eq!(shelf.wanted(5_000, 0, 10_000), Some(51));
    }

    #[test]
    fn offers_that_may_not_be_shown_any_more_are_dropped() {
        let mut shelf = shelf();
        shelf.call_begun(2);
        shelf.arrived(2, [offers(1, 100), offers(1, 200)].concat());
        assert_eq!(shelf.take(UnixSeconds(100)).unwrap().show_until, 200);
        assert!(shelf.take(UnixSeconds(100)).is_none());
    }

    #[test]
    fn waiting_requests_are_covered_once_and_not_again() {
        let mut shelf = shelf();
        for _ in 0..10 {
            shelf.note_demand(0);
        }
        let count = shelf.wanted(0, 10, 0).unwrap();
        assert_eq!(count, 10);
        shelf.call_begun(count);
        assert_eq!(shelf.wanted(0, 10, 0), None);
        assert_eq!(shelf.wanted(0, 12, 0), Some(2));
    }

    #[test]
    fn a_failed_fetch_backs_off_longer_each_time_and_a_good_one_ends_that() {
        let mut shelf = shelf();
        let why = NoOffers {
            status: 503,
            retry_after_seconds: 1,
        };
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            shelf.note_demand(now);
            let count = shelf.wanted(now, 1, 0).unwrap();
            shelf.call_begun(count);
            shelf.failed(count, now, why);
            assert_eq!(shelf.refusal(now), Some(why));
            let start = now;
            while shelf.wanted(now, 1, 0).is_none() {
                now += 10;
            }
            pauses.push(now - start);
        }
        assert_eq!(
            pauses,
            [250, 500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000]
        );
        assert!(filled(&mut shelf, now, 1) > 0);
        assert_eq!(shelf.refusal(now), None);
    }

    proptest! {
        #[test]
        fn only_what_can_stand_in_a_header_is_plain(text in any::<Vec<u8>>()) {
            let all = text
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte));
            prop_assert_eq!(is_plain(&text), all);
        }
    }

    #[test]
    fn every_byte_is_plain_or_not_as_its_class_says() {
        for byte in 0..=u8::MAX {
            let expected = byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
            assert_eq!(is_plain(&[byte]), expected, "{byte}");
        }
    }
}
