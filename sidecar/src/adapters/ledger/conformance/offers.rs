//! Offers.

use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;

use super::*;

pub(super) async fn all<L: Ledger>(make: &impl AsyncFn() -> L) {
    offers_are_written_under_the_current_key_only(make().await).await;
    a_failed_batch_leaves_nothing(make().await).await;
    a_paid_offer_is_not_pruned(make().await).await;
    unpaid_offers_are_listed_in_pages(make().await).await;
    what_another_node_made_is_its_own(make().await).await;
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
    assert_eq!(ledger.outstanding(None).await, Ok(0));
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
    assert_eq!(ledger.outstanding(None).await, Ok(1));
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
        ledger.unpaid(NODE, None, UnixSeconds(700), 10).await,
        Ok(Vec::new())
    );
    let mut seen = HashSet::new();
    let mut after = None;
    loop {
        let page = ledger
            .unpaid(NODE, after, UnixSeconds(701), 2)
            .await
            .unwrap();
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

/// After a move to another node, which knows nothing of what was offered before.
async fn what_another_node_made_is_its_own<L: Ledger>(ledger: L) {
    with_key(&ledger).await;
    let of = |n, node| OfferRow {
        node,
        scheme: Scheme::Session,
        ..offer(n, Validity::Forever)
    };
    let other = NodeId([3; 33]);
    let offers = vec![of(1, Some(NODE)), of(2, Some(other)), of(3, None)];
    ledger.record_offers(batch(offers)).await.unwrap();
    let later = UnixSeconds(701);
    for (node, unpaid) in [(NODE, [1, 3]), (other, [2, 3])] {
        let unpaid = unpaid.map(|n| PaymentHash([n; 32])).to_vec();
        assert_eq!(ledger.unpaid(node, None, later, 10).await, Ok(unpaid));
        assert_eq!(ledger.outstanding(Some(node)).await, Ok(2));
    }
    assert_eq!(ledger.outstanding(None).await, Ok(3));

    // The money is where the invoice was made, whoever tells of it.
    let paid = [1, 2, 3].map(|n| settlement(n, 0)).to_vec();
    let sales = ledger.record_settlements(NODE, paid).await.unwrap();
    let nodes: Vec<_> = sales.iter().map(|sale| sale.node).collect();
    assert_eq!(nodes, [Some(NODE), Some(other), Some(NODE)]);
    for sale in sales {
        assert_eq!(ledger.find_sale(sale.payment_hash).await, Ok(Some(sale)));
    }
    // And so is the refund of a session that is opened with it.
    session::opened(&ledger, 2).await;
    assert_eq!(session::find(&ledger, 2).await.node, other);
    session::opened(&ledger, 1).await;
    assert_eq!(session::find(&ledger, 1).await.node, NODE);
}
