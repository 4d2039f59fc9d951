//! One test body for every store behind the ledger port: what each must do, in the same words.
//!
//! A store's own tests call [`all`] with a way to make an empty ledger. It panics at the first
//! thing that is not as it must be, so it belongs into tests only.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

pub(crate) mod books;
mod claims;
mod closes;
mod deposits;
mod keys;
mod leases;
mod offers;
pub(crate) mod refunds;
mod sales;
mod session;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use protocol::amount::Msat;
use protocol::api::KeyState;
use protocol::hash::PaymentHash;
use protocol::keys::MasterSecret;
use protocol::l402::TokenId;
use protocol::time::UnixSeconds;

use crate::domain::deny_list::Version;
use crate::domain::invoice::{NodeId, Settlement};
use crate::domain::keys::{KeySource, NewKey, RotationHeld};
use crate::domain::ledger::{GenerationUse, LedgerError, NewRevocation, OfferBatch, OfferName};
use crate::domain::offer::{OfferRow, Scheme, Validity};
use crate::domain::ports::Ledger;

/// Past by every clock.
const NOW: u64 = 1_700_000_000_000;
const NODE: NodeId = NodeId([2; 33]);
/// For so long a retired key stays without anything recorded under it.
const KEPT: Duration = Duration::ZERO;

/// Everything, each on an empty ledger of its own.
pub(crate) async fn all<L: Ledger>(make: impl AsyncFn() -> L) {
    keys::all(&make).await;
    offers::all(&make).await;
    sales::all(&make).await;
    claims::all(&make).await;
    deposits::all(&make).await;
    leases::all(&make).await;
    closes::all(&make).await;
    refunds::all(&make).await;
    books::all(&make).await;
    a_closed_ledger_refuses(make().await).await;
}

/// A session with a lease that has something to spend, for the tests of one store.
pub(crate) async fn open_with_lease<L: Ledger>(ledger: &L) {
    session::open_with_lease(ledger).await;
}

/// Sessions 1 to `count`, each without a lease.
pub(crate) async fn open_some<L: Ledger>(ledger: &L, count: u8) {
    for n in 1..=count {
        session::opened(ledger, n).await;
    }
}

/// A report of that lease, that is heard.
pub(crate) async fn report_something<L: Ledger>(ledger: &L) {
    session::say(ledger, session::report(1, 1)).await;
}

/// A session that was closed by its buyer.
pub(crate) async fn open_and_close<L: Ledger>(ledger: &L) {
    session::opened(ledger, 1).await;
    session::closed(ledger, 1, 9).await;
}

fn key(mark: u8) -> NewKey {
    let source = KeySource::Ledger(MasterSecret::new([mark; 32]));
    NewKey {
        source,
        fingerprint: [mark; 32],
    }
}

fn offer(n: u8, valid_until: Validity) -> OfferRow {
    OfferRow {
        payment_hash: PaymentHash([n; 32]),
        token_id: TokenId::new(0, [n; 31]),
        service: "weather".to_owned(),
        scheme: Scheme::L402,
        amount: Msat::new(1_500).unwrap(),
        created: UnixSeconds(100),
        expires: UnixSeconds(700),
        valid_until,
        node: Some(NODE),
    }
}

fn batch(offers: Vec<OfferRow>) -> OfferBatch {
    OfferBatch {
        generation: 0,
        offers,
    }
}

fn settlement(n: u8, settle_index: u64) -> Settlement {
    Settlement {
        payment_hash: PaymentHash([n; 32]),
        amount: Msat::new(1_600).unwrap(),
        settled_at: UnixSeconds(200),
        settle_index,
    }
}

async fn with_key<L: Ledger>(ledger: &L) {
    ledger.install_first_key(key(1), NOW).await.unwrap();
}

async fn a_closed_ledger_refuses<L: Ledger>(ledger: L) {
    Ledger::close(&ledger).await;
    assert_eq!(
        ledger.install_first_key(key(1), NOW).await,
        Err(LedgerError::Closed)
    );
    assert_eq!(ledger.version().await, Err(LedgerError::Closed));
}
