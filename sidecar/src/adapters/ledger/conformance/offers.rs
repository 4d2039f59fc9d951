//! Offers.

use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;

use super::*;

pub(super) async fn all<L: Ledger>(make: &impl AsyncFn() -> L) {
    offers_are_written_under_the_current_key_only(make().await).await;
    a_failed_batch_leaves_nothing(make().await).await;
    a_paid_offer_is_not_pruned(make().await).await;
    unpaid_offers_are_listed_in_pages(make().await).await;
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
    ledger.promote(1, NOW, KEPT).await.unwrap();
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
