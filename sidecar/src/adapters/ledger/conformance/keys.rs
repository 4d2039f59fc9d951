//! Key generations and the deny list.

use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;

use super::*;

pub(super) async fn all<L: Ledger>(make: &impl AsyncFn() -> L) {
    first_key_is_installed_once(make().await).await;
    rotation_goes_next_current_retired(make().await).await;
    retired_keys_stay_while_tokens_live(make().await).await;
    a_retired_key_can_be_revoked_with_what_depends_on_it(make().await).await;
    versions_grow_with_every_change(make().await).await;
    a_token_is_revoked_once_and_forgotten_after_its_end(make().await).await;
    a_retired_key_stays_for_a_while_though_nothing_was_issued(make().await).await;
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
    assert_eq!(ledger.promote(0, NOW, KEPT).await, Ok(false));
    assert_eq!(ledger.promote(1, NOW, KEPT).await, Ok(true));
    assert_eq!(ledger.promote(1, NOW, KEPT).await, Ok(false));
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
    ledger.promote(1, NOW, KEPT).await.unwrap();
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
    ledger.promote(2, NOW, KEPT).await.unwrap();
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

    ledger.promote(1, NOW, KEPT).await.unwrap();
    let new = OfferBatch {
        generation: 1,
        offers: vec![of(1, 9, Validity::Forever)],
    };
    ledger.record_offers(new).await.unwrap();
    let used = GenerationUse {
        sold: 2,
        unpaid: 2,
        sessions: 0,
    };
    assert_eq!(ledger.generation_use(0, now).await, Ok(used));
    let before = ledger.version().await.unwrap();
    assert_eq!(ledger.revoke_generation(0, NOW).await, Ok(used));
    assert!(ledger.version().await.unwrap() > before);
    assert_eq!(states(&ledger).await, [(1, KeyState::Current)]);
    let gone = LedgerError::NotRetired { id: 0, state: None };
    assert_eq!(ledger.revoke_generation(0, NOW).await, Err(gone));
    let ended = ledger
        .unpaid(NODE, None, UnixSeconds(101), 10)
        .await
        .unwrap();
    assert_eq!(
        HashSet::from_iter(ended),
        HashSet::from([3, 4].map(|n| PaymentHash([n; 32]))),
        "its unpaid offers are over, and no others"
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
    ledger.promote(1, NOW - 1_000_000, KEPT).await.unwrap();
    assert!(ledger.version().await.unwrap() > second);
    let third = ledger.version().await.unwrap();
    ledger.prune_expired(NOW + 400_000).await.unwrap();
    assert!(
        ledger.version().await.unwrap() > third,
        "the retired key issued nothing and left"
    );
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

async fn a_retired_key_stays_for_a_while_though_nothing_was_issued<L: Ledger>(ledger: L) {
    with_key(&ledger).await;
    ledger.begin_rotation(key(2), NOW).await.unwrap();
    let hour = Duration::from_secs(3_600);
    ledger.promote(1, NOW, hour).await.unwrap();
    ledger.prune_expired(NOW + 3_800_000).await.unwrap();
    assert_eq!(states(&ledger).await.len(), 2);
    ledger.prune_expired(NOW + 4_000_000).await.unwrap();
    assert_eq!(states(&ledger).await, [(1, KeyState::Current)]);
}
