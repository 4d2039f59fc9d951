//! Locks that somebody keeps: a sidecar that was frozen in the middle of a transaction.

use protocol::lease::{AccountId, HolderId, Report};

use super::session::DEADLINE;
use super::*;

fn report(session: u8) -> Report {
    Report {
        account: AccountId([session; 32]),
        holder: HolderId([1; 16]),
        used: 0,
        returned: 0,
        want: 2,
        need: 0,
        price: 1,
        release: false,
    }
}

/// For as long as the transaction is there.
const FREEZE: &str = "SET LOCAL idle_in_transaction_session_timeout = 0;
                      SELECT 1 FROM sessions WHERE get_byte(session_id, 0) = 2 FOR UPDATE";

#[tokio::test]
async fn sessions_do_not_wait_for_one_that_somebody_has() {
    let url = database().await;
    let (frozen, ledger) = (open(&url).await, open(&url).await);
    conformance::open_some(&ledger, 3).await;
    let mut client = frozen.pool.get().await.unwrap();
    let tx = client.transaction().await.unwrap();
    tx.batch_execute(FREEZE).await.unwrap();
    let begun = Instant::now();
    let reports = [1, 2, 9, 3, 2].map(report);
    let heard = ledger.report_leases(reports.to_vec()).await.unwrap();
    assert!(begun.elapsed() < DEADLINE, "{:?}", begun.elapsed());
    let told: Vec<_> = heard
        .answers
        .iter()
        .map(|a| (a.account.0[0], a.granted))
        .collect();
    assert_eq!(told, [(1, 2), (9, 0), (3, 2)]);

    // Nobody is told that a session is unknown or closed because it is held up.
    let alone = ledger.report_leases(vec![report(2)]).await;
    assert!(matches!(alone, Err(LedgerError::Store(_))), "{alone:?}");
    let both = ledger.report_leases(vec![report(2), report(2)]).await;
    assert!(matches!(both, Err(LedgerError::Store(_))), "{both:?}");
    tx.rollback().await.unwrap();
    let heard = ledger.report_leases(vec![report(2)]).await.unwrap();
    assert_eq!(heard.answers[0].granted, 2);
}

#[tokio::test]
async fn sweeps_do_not_wait_for_a_session_that_somebody_has() {
    let url = database().await;
    let (frozen, ledger) = (open(&url).await, open(&url).await);
    conformance::open_some(&ledger, 3).await;
    let reports = [1, 2, 3].map(report);
    ledger.report_leases(reports.to_vec()).await.unwrap();
    let mut client = frozen.pool.get().await.unwrap();
    let tx = client.transaction().await.unwrap();
    tx.batch_execute(FREEZE).await.unwrap();
    let at_once = crate::domain::lease::Times {
        reclaim_ms: 0,
        ..Default::default()
    };
    let swept = ledger.sweep_leases(at_once, 10).await.unwrap();
    assert_eq!(swept.sessions, 2);
    execute(&url, "UPDATE hearing SET serving_since_ms = 0").await;
    let idle = "UPDATE sessions SET active_ms = 1 WHERE get_byte(session_id, 0) <> 2";
    execute(&url, idle).await;
    assert_eq!(ledger.stop_unused(10).await.unwrap().len(), 2);
    tx.rollback().await.unwrap();
    let swept = ledger.sweep_leases(at_once, 10).await.unwrap();
    assert_eq!(swept.sessions, 1);
}

#[tokio::test]
async fn leases_of_a_session_that_somebody_has_are_forgotten_later() {
    let url = database().await;
    let (frozen, ledger) = (open(&url).await, open(&url).await);
    conformance::open_some(&ledger, 3).await;
    ledger
        .report_leases([1, 2, 3].map(report).to_vec())
        .await
        .unwrap();
    let over = [1, 2, 3].map(|session| Report {
        used: 2,
        release: true,
        ..report(session)
    });
    ledger.report_leases(over.to_vec()).await.unwrap();
    let mut client = frozen.pool.get().await.unwrap();
    let tx = client.transaction().await.unwrap();
    tx.batch_execute(FREEZE).await.unwrap();
    let forget = crate::domain::lease::Times {
        forget_ms: 0,
        ..Default::default()
    };
    let beside = ledger.pool.get().await.unwrap();
    let forgotten = async || {
        ledger.sweep_leases(forget, 10).await.unwrap();
        let query = "SELECT forgotten_sat, (SELECT sum(used)::bigint FROM lease_holders AS h
                                            WHERE h.session_id = s.session_id)
                     FROM sessions AS s ORDER BY session_id";
        let rows = beside.query(query, &[]).await.unwrap();
        let found = rows.iter().map(|row| (row.get(0), row.get(1)));
        found.collect::<Vec<(i64, Option<i64>)>>()
    };
    assert_eq!(forgotten().await, [(2, None), (0, Some(2)), (2, None)]);
    tx.rollback().await.unwrap();
    assert_eq!(forgotten().await, [(2, None); 3]);
}

/// A wait for a lock ends as an error of the database, and the connection goes on.
#[tokio::test]
async fn who_waits_for_a_lock_in_vain_keeps_the_connection() {
    let url = database().await;
    let (frozen, ledger) = (open(&url).await, open(&url).await);
    conformance::open_some(&ledger, 2).await;
    let mut client = frozen.pool.get().await.unwrap();
    let tx = client.transaction().await.unwrap();
    tx.batch_execute(FREEZE).await.unwrap();
    let backends = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()";
    let refused = ledger.report_leases(vec![report(2)]).await.unwrap_err();
    assert!(refused.to_string().contains("55P03"), "{refused}");
    let count: i64 = tx.query_one(backends, &[]).await.unwrap().get(0);
    assert_eq!(count, 2);
}

/// What nobody waits for any more does not go on at the database.
#[tokio::test]
async fn a_statement_that_is_given_up_ends() {
    let url = database().await;
    let ledger = open(&url).await;
    let slept = session::within(Duration::from_millis(200), async {
        let mut session = session::Session::of(&ledger.pool).await?;
        session
            .client()?
            .batch_execute("SELECT pg_sleep(9)")
            .await?;
        session.keep();
        Ok(())
    });
    assert!(slept.await.is_err());
    let client = ledger.pool.get().await.unwrap();
    let others = "SELECT count(*) FROM pg_stat_activity
                  WHERE query LIKE '%pg_sleep(9)' AND state = 'active'
                        AND datname = current_database()";
    let deadline = Instant::now() + Duration::from_secs(5);
    while client
        .query_one(others, &[])
        .await
        .unwrap()
        .get::<_, i64>(0)
        > 0
    {
        assert!(Instant::now() < deadline, "goes on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What depends on a key that has leaked may take long to count: nobody who issues waits for that.
#[tokio::test(flavor = "multi_thread")]
async fn offers_are_issued_while_it_is_counted_what_a_leaked_key_sold() {
    let url = database().await;
    let (other, ledger) = (open(&url).await, Arc::new(open(&url).await));
    ledger.install_first_key(key(1), 1).await.unwrap();
    ledger.begin_rotation(key(2), 1).await.unwrap();
    ledger.promote(1, 1, Duration::ZERO).await.unwrap();
    let mut client = other.pool.get().await.unwrap();
    let tx = client.transaction().await.unwrap();
    let slow = "SET LOCAL idle_in_transaction_session_timeout = 0;
                LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE";
    tx.batch_execute(slow).await.unwrap();
    let counting = {
        let ledger = Arc::clone(&ledger);
        tokio::spawn(async move { ledger.revoke_generation(0, 1).await })
    };
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted
                   AND relation = 'sessions'::regclass";
    let deadline = Instant::now() + Duration::from_secs(10);
    while tx.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        assert!(Instant::now() < deadline, "never counted");
    }
    let under_new = OfferBatch {
        generation: 1,
        offers: vec![offer(1)],
    };
    ledger.record_offers(under_new).await.unwrap();
    assert!(!counting.is_finished(), "it was issued meanwhile");
    tx.rollback().await.unwrap();
    assert_eq!(counting.await.unwrap(), Ok(GenerationUse::default()));
}
