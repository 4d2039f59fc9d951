//! Sales and settlements.

use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;

use super::*;

pub(super) async fn all<L: Ledger>(make: &impl AsyncFn() -> L) {
    a_sale_is_recorded_once(Arc::new(make().await)).await;
    sales_keep_the_scheme_of_their_offer(make().await).await;
    settlements_that_are_not_ours_only_move_the_index(make().await).await;
    settle_indexes_belong_to_their_node_and_never_go_back(make().await).await;
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
    assert_eq!(ledger.outstanding(None).await, Ok(0));
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
    for sale in kept {
        let found = ledger.find_sale(sale.payment_hash).await;
        assert_eq!(found, Ok(Some(sale)));
    }
    assert_eq!(ledger.find_sale(PaymentHash([3; 32])).await, Ok(None));
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
