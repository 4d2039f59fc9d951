//! One test body for every store behind the ledger port: what each must do, in the same words.
//!
//! A store's own tests call [`all`] with a way to make an empty ledger. It panics at the first
//! thing that is not as it must be, so it belongs into tests only.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod claims;
pub(crate) mod refunds;

use std::collections::HashSet;
use std::sync::Arc;

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

const NOW: u64 = 1_800_000_000_000;
const NODE: NodeId = NodeId([2; 33]);

/// Everything, each on an empty ledger of its own.
pub(crate) async fn all<L: Ledger>(make: impl AsyncFn() -> L) {
    first_key_is_installed_once(make().await).await;
    rotation_goes_next_current_retired(make().await).await;
    retired_keys_stay_while_tokens_live(make().await).await;
    a_retired_key_can_be_revoked_with_what_depends_on_it(make().await).await;
    offers_are_written_under_the_current_key_only(make().await).await;
    a_failed_batch_leaves_nothing(make().await).await;
    a_sale_is_recorded_once(Arc::new(make().await)).await;
    sales_keep_the_scheme_of_their_offer(make().await).await;
    settlements_that_are_not_ours_only_move_the_index(make().await).await;
    settle_indexes_belong_to_their_node_and_never_go_back(make().await).await;
    a_paid_offer_is_not_pruned(make().await).await;
    unpaid_offers_are_listed_in_pages(make().await).await;
    a_token_is_revoked_once_and_forgotten_after_its_end(make().await).await;
    versions_grow_with_every_change(make().await).await;
    claims::all(&make).await;
    a_closed_ledger_refuses(make().await).await;
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

async fn states<L: Ledger>(ledger: &L) -> Vec<(u8, KeyState)> {
    let snapshot = ledger.snapshot().await.unwrap();
    snapshot
        .generations
        .iter()
        .map(|g| (g.id, g.state))
        .collect()
}

async fn first_key_is_installed_once<L: Ledger>(ledger: L) {
    ledger.install_first_key(key(1), NOW).await.unwrap();
    ledger.install_first_key(key(2), NOW).await.unwrap();
    let snapshot = ledger.snapshot().await.unwrap();
    assert_eq!(snapshot.generations.len(), 1);
    assert_eq!(snapshot.generations[0].fingerprint, [1; 32]);
    assert_eq!(snapshot.generations[0].state, KeyState::Current);
    assert!(matches!(&snapshot.generations[0].source,
        KeySource::Ledger(master) if *master.expose() == [1; 32]));
}

async fn rotation_goes_next_current_retired<L: Ledger>(ledger: L) {
    with_key(&ledger).await;
    assert_eq!(ledger.begin_rotation(key(2), NOW).await, Ok(1));
    assert_eq!(
        states(&ledger).await,
        [(0, KeyState::Current), (1, KeyState::Next)]
    );
    let held = ledger.begin_rotation(key(3), NOW).await;
    assert!(matches!(
        held,
        Err(LedgerError::Held(RotationHeld::Pending { id: 1, .. }))
    ));
    let known = ledger.begin_rotation(key(2), NOW).await;
    assert!(matches!(
        known,
        Err(LedgerError::Held(RotationHeld::KnownKey { id: 1 }))
    ));
    assert_eq!(ledger.promote(0, NOW).await, Ok(false));
    assert_eq!(ledger.promote(1, NOW).await, Ok(true));
    assert_eq!(ledger.promote(1, NOW).await, Ok(false));
    assert_eq!(
        states(&ledger).await,
        [(0, KeyState::Retired), (1, KeyState::Current)]
    );
}

async fn retired_keys_stay_while_tokens_live<L: Ledger>(ledger: L) {
    with_key(&ledger).await;
    let end = NOW / 1_000 + 1_000;
    let until = Validity::Until(UnixSeconds(end));
    ledger
        .record_offers(batch(vec![offer(1, until)]))
        .await
        .unwrap();
    ledger.begin_rotation(key(2), NOW).await.unwrap();
    ledger.promote(1, NOW).await.unwrap();
    ledger.prune_expired((end + 200) * 1_000).await.unwrap();
    assert_eq!(states(&ledger).await.len(), 2, "within the grace");
    ledger.prune_expired((end + 400) * 1_000).await.unwrap();
    assert_eq!(states(&ledger).await, [(1, KeyState::Current)]);

    let forever = OfferRow {
        token_id: TokenId::new(1, [9; 31]),
        ..offer(9, Validity::Forever)
    };
    let under_one = OfferBatch {
        generation: 1,
        offers: vec![forever],
    };
    ledger.record_offers(under_one).await.unwrap();
    ledger.begin_rotation(key(3), NOW).await.unwrap();
    ledger.promote(2, NOW).await.unwrap();
    ledger.prune_expired(u64::MAX / 2_000_000).await.unwrap();
    assert_eq!(
        states(&ledger).await,
        [(1, KeyState::Retired), (2, KeyState::Current)]
    );
}

async fn a_retired_key_can_be_revoked_with_what_depends_on_it<L: Ledger>(ledger: L) {
    with_key(&ledger).await;
    let now = UnixSeconds(NOW / 1_000);
    let of = |generation: u8, n: u8, valid_until| OfferRow {
        token_id: TokenId::new(generation, [n; 31]),
        ..offer(n, valid_until)
    };
    let over = Validity::Until(UnixSeconds(now.0 - 1));
    let old = (1..=4).map(|n| of(0, n, Validity::Forever));
    let old = old.chain([of(0, 5, over)]).collect();
    ledger.record_offers(batch(old)).await.unwrap();
    let paid = [1, 2, 5].map(|n| settlement(n, u64::from(n)));
    ledger
        .record_settlements(NODE, paid.to_vec())
        .await
        .unwrap();
    ledger.begin_rotation(key(2), NOW).await.unwrap();
    for (id, state) in [
        (0, Some(KeyState::Current)),
        (1, Some(KeyState::Next)),
        (255, None),
    ] {
        let refused = Err(LedgerError::NotRetired { id, state });
        assert_eq!(ledger.generation_use(id, now).await, refused);
        assert_eq!(ledger.revoke_generation(id, NOW).await, refused);
    }

    ledger.promote(1, NOW).await.unwrap();
    let new = OfferBatch {
        generation: 1,
        offers: vec![of(1, 9, Validity::Forever)],
    };
    ledger.record_offers(new).await.unwrap();
    let used = GenerationUse { sold: 2, unpaid: 2 };
    assert_eq!(ledger.generation_use(0, now).await, Ok(used));
    let before = ledger.version().await.unwrap();
    assert_eq!(ledger.revoke_generation(0, NOW).await, Ok(used));
    assert!(ledger.version().await.unwrap() > before);
    assert_eq!(states(&ledger).await, [(1, KeyState::Current)]);
    let gone = LedgerError::NotRetired { id: 0, state: None };
    assert_eq!(ledger.revoke_generation(0, NOW).await, Err(gone));
    let ended = ledger.unpaid(None, UnixSeconds(101), 10).await.unwrap();
    assert_eq!(
        HashSet::from_iter(ended),
        HashSet::from([3, 4].map(|n| PaymentHash([n; 32]))),
        "its unpaid offers are over, and no others"
    );
}

async fn offers_are_written_under_the_current_key_only<L: Ledger>(ledger: L) {
    with_key(&ledger).await;
    ledger.begin_rotation(key(2), NOW).await.unwrap();
    let next = OfferBatch {
        generation: 1,
        offers: vec![offer(1, Validity::Forever)],
    };
    assert_eq!(
        ledger.record_offers(next).await,
        Err(LedgerError::NotCurrent(1))
    );
    ledger.promote(1, NOW).await.unwrap();
    let retired = batch(vec![offer(1, Validity::Forever)]);
    assert_eq!(
        ledger.record_offers(retired).await,
        Err(LedgerError::NotCurrent(0))
    );
    assert_eq!(ledger.outstanding().await, Ok(0));
}

async fn a_failed_batch_leaves_nothing<L: Ledger>(ledger: L) {
    with_key(&ledger).await;
    ledger
        .record_offers(batch(vec![offer(1, Validity::Forever)]))
        .await
        .unwrap();
    let doubled = batch(vec![
        offer(2, Validity::Forever),
        offer(1, Validity::Forever),
    ]);
    assert!(ledger.record_offers(doubled).await.is_err());
    assert_eq!(ledger.outstanding().await, Ok(1));
    let found = ledger
        .find_offer(OfferName::PaymentHash(PaymentHash([2; 32])))
        .await;
    assert_eq!(found, Ok(None));
}

async fn a_sale_is_recorded_once<L: Ledger>(ledger: Arc<L>) {
    with_key(&*ledger).await;
    ledger
        .record_offers(batch(vec![offer(1, Validity::Forever)]))
        .await
        .unwrap();
    let mut tasks = Vec::new();
    for _ in 0..16 {
        let ledger = Arc::clone(&ledger);
        tasks.push(tokio::spawn(async move {
            ledger
                .record_settlements(NODE, vec![settlement(1, 7)])
                .await
                .unwrap()
                .len()
        }));
    }
    let mut recorded = 0;
    for task in tasks {
        recorded += task.await.unwrap();
    }
    assert_eq!(recorded, 1);
    let sales = ledger.sales(UnixSeconds(0), 10).await.unwrap();
    assert_eq!(sales.len(), 1);
    assert_eq!(
        sales[0].amount,
        Msat::new(1_600).unwrap(),
        "what was really paid"
    );
    assert_eq!(sales[0].service, "weather");
    assert_eq!(ledger.settle_index(NODE).await, Ok(7));
    assert_eq!(ledger.outstanding().await, Ok(0));
}

async fn sales_keep_the_scheme_of_their_offer<L: Ledger>(ledger: L) {
    with_key(&ledger).await;
    let charge = OfferRow {
        scheme: Scheme::Charge,
        ..offer(2, Validity::Until(UnixSeconds(700)))
    };
    let offers = vec![offer(1, Validity::Forever), charge];
    ledger.record_offers(batch(offers)).await.unwrap();
    let paid = vec![settlement(1, 1), settlement(2, 2)];
    let new = ledger.record_settlements(NODE, paid).await.unwrap();
    let kept = ledger.sales(UnixSeconds(0), 10).await.unwrap();
    assert_eq!(new, kept);
    let schemes: Vec<_> = kept.iter().map(|sale| sale.scheme).collect();
    assert_eq!(schemes, [Scheme::L402, Scheme::Charge]);
    for (n, is_sold) in [(1, true), (2, true), (3, false)] {
        assert_eq!(ledger.is_sold(PaymentHash([n; 32])).await, Ok(is_sold));
    }
    // What an operator revokes are tokens; a charge is none.
    let charge = OfferName::PaymentHash(PaymentHash([2; 32]));
    assert_eq!(ledger.find_offer(charge).await, Ok(None));
}

async fn settlements_that_are_not_ours_only_move_the_index<L: Ledger>(ledger: L) {
    with_key(&ledger).await;
    let sales = ledger
        .record_settlements(NODE, vec![settlement(1, 3)])
        .await
        .unwrap();
    assert!(sales.is_empty());
    assert_eq!(ledger.settle_index(NODE).await, Ok(3));
}

async fn settle_indexes_belong_to_their_node_and_never_go_back<L: Ledger>(ledger: L) {
    ledger
        .record_settlements(NODE, vec![settlement(1, 5), settlement(2, 6)])
        .await
        .unwrap();
    ledger
        .record_settlements(NODE, vec![settlement(3, 2), settlement(4, 0)])
        .await
        .unwrap();
    assert_eq!(ledger.settle_index(NODE).await, Ok(6));
    assert_eq!(ledger.settle_index(NodeId([3; 33])).await, Ok(0));
}

async fn a_paid_offer_is_not_pruned<L: Ledger>(ledger: L) {
    with_key(&ledger).await;
    let until = |end| Validity::Until(UnixSeconds(end));
    ledger
        .record_offers(batch(vec![offer(1, until(900)), offer(2, until(900))]))
        .await
        .unwrap();
    ledger
        .record_settlements(NODE, vec![settlement(1, 1)])
        .await
        .unwrap();
    let hashes = vec![PaymentHash([1; 32]), PaymentHash([2; 32])];
    assert_eq!(ledger.drop_unpaid(hashes).await, Ok(1));
    let paid = OfferName::PaymentHash(PaymentHash([1; 32]));
    assert_eq!(
        ledger.find_offer(paid).await,
        Ok(Some(offer(1, until(900))))
    );
    let by_token = OfferName::TokenId(offer(1, until(900)).token_id);
    assert_eq!(
        ledger.find_offer(by_token).await,
        Ok(Some(offer(1, until(900))))
    );
    assert_eq!(
        ledger.drop_expired_tokens(UnixSeconds(900), 10).await,
        Ok(0)
    );
    assert_eq!(
        ledger.drop_expired_tokens(UnixSeconds(901), 10).await,
        Ok(1)
    );
    assert_eq!(
        ledger.sales(UnixSeconds(0), 10).await.unwrap().len(),
        1,
        "sales stay"
    );
}

async fn unpaid_offers_are_listed_in_pages<L: Ledger>(ledger: L) {
    with_key(&ledger).await;
    let offers = (1..=5).map(|n| offer(n, Validity::Forever)).collect();
    ledger.record_offers(batch(offers)).await.unwrap();
    ledger
        .record_settlements(NODE, vec![settlement(3, 1)])
        .await
        .unwrap();
    assert_eq!(
        ledger.unpaid(None, UnixSeconds(700), 10).await,
        Ok(Vec::new())
    );
    let mut seen = HashSet::new();
    let mut after = None;
    loop {
        let page = ledger.unpaid(after, UnixSeconds(701), 2).await.unwrap();
        assert!(page.len() <= 2);
        let Some(last) = page.last().copied() else {
            break;
        };
        after = Some(last);
        seen.extend(page);
    }
    let expected: HashSet<_> = [1, 2, 4, 5].map(|n| PaymentHash([n; 32])).into();
    assert_eq!(seen, expected);
}

async fn a_token_is_revoked_once_and_forgotten_after_its_end<L: Ledger>(ledger: L) {
    let revoke = |hash: u8, expires| NewRevocation {
        identifier_hash: [hash; 32],
        expires,
        at: UnixSeconds(NOW / 1_000),
    };
    let end = NOW / 1_000 + 100;
    let until = revoke(1, Validity::Until(UnixSeconds(end)));
    let before = ledger.version().await.unwrap();
    assert_eq!(ledger.revoke(until, NOW).await, Ok(true));
    assert_eq!(ledger.revoke(until, NOW).await, Ok(false));
    assert_eq!(
        ledger.revoke(revoke(2, Validity::Forever), NOW).await,
        Ok(true)
    );
    let snapshot = ledger.snapshot().await.unwrap();
    let added = snapshot.deny_list.changes_since(Some(before)).add;
    assert_eq!(
        HashSet::from([[1; 32], [2; 32]]),
        added.into_iter().collect()
    );

    ledger.prune_expired((end + 400) * 1_000).await.unwrap();
    let pruned = ledger.snapshot().await.unwrap();
    assert_eq!(pruned.deny_list.len(), 1);
    let changes = pruned.deny_list.changes_since(Some(snapshot.version));
    assert_eq!((changes.full, changes.remove), (false, vec![[1; 32]]));

    // Long after, the removal itself is forgotten and who knows only older things starts anew.
    ledger.prune_expired((end + 9_000) * 1_000).await.unwrap();
    let later = ledger.snapshot().await.unwrap();
    assert!(later.deny_list.changes_since(Some(snapshot.version)).full);
    assert!(!later.deny_list.changes_since(Some(pruned.version)).full);
    assert_eq!(
        ledger.revoke(until, (end + 9_001) * 1_000).await,
        Ok(true),
        "again"
    );
}

async fn versions_grow_with_every_change<L: Ledger>(ledger: L) {
    with_key(&ledger).await;
    let first = ledger.version().await.unwrap();
    assert!(first >= Version(NOW), "at least the time in milliseconds");
    ledger.begin_rotation(key(2), NOW).await.unwrap();
    let second = ledger.version().await.unwrap();
    assert!(
        second > first,
        "also within a millisecond, also with a clock that goes back"
    );
    ledger.promote(1, NOW - 1_000_000).await.unwrap();
    assert!(ledger.version().await.unwrap() > second);
    let third = ledger.version().await.unwrap();
    ledger.prune_expired(NOW).await.unwrap();
    assert!(
        ledger.version().await.unwrap() > third,
        "the retired key issued nothing and left"
    );
}

async fn a_closed_ledger_refuses<L: Ledger>(ledger: L) {
    ledger.close().await;
    assert_eq!(
        ledger.install_first_key(key(1), NOW).await,
        Err(LedgerError::Closed)
    );
    assert_eq!(ledger.version().await, Err(LedgerError::Closed));
}
