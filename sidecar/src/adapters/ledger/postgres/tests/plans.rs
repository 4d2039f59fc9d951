//! What is asked again and again reads no table as a whole.

use super::*;
use crate::adapters::ledger::books::entries;
use crate::domain::books::EntryKind;
use crate::domain::ports::RefundLedger as _;

/// Paid refunds, as they are after a while, and a few of each other state.
async fn many_refunds(url: &str) {
    let fill = "INSERT INTO sessions (session_id, service, deposited_sat, return_invoice,
            return_hash, return_expires_at, close_by, node, generation, newest_generation,
            idle_timeout_seconds, state, opened_ms, active_ms, closed_ms)
        SELECT sha256(n::text::bytea), 's', 1, 'i', sha256(('r' || n)::bytea), 9, 9,
               decode(repeat('02', 33), 'hex'), 0, 0, 1, 'closed', n, n, n
        FROM generate_series(1, 20000) AS n;
        INSERT INTO refunds (session_id, node, return_invoice, return_hash, amount_sat, state,
                             sent_sat, fee_limit_msat, fee_msat, created_ms, updated_ms)
        SELECT session_id, node, return_invoice, return_hash, 1,
               CASE WHEN opened_ms % 4000 = 1 THEN 'pending' WHEN opened_ms % 4000 = 2 THEN 'failed'
                    ELSE 'succeeded' END, 1, 0, 0, opened_ms, opened_ms FROM sessions;
        UPDATE refunds SET node = decode(repeat('03', 33), 'hex') WHERE created_ms > 15000;
        ANALYZE";
    execute(url, fill).await;
}

/// The plan of a query with these words for its parameters.
async fn plan(ledger: &PostgresLedger, query: &str, words: &[&str]) -> String {
    let mut query = format!("EXPLAIN {query}");
    for (n, word) in words.iter().enumerate() {
        query = query.replace(&format!("${}", n + 1), word);
    }
    let client = ledger.pool.get().await.unwrap();
    let rows = client.query(&query, &[]).await.unwrap();
    let lines: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    lines.join("\n")
}

#[tokio::test]
async fn counts_of_refunds_and_pages_of_the_books_are_read_by_indexes() {
    let url = database().await;
    let ledger = open(&url).await;
    many_refunds(&url).await;
    let node = "decode(repeat('02', 33), 'hex')";
    let counts = plan(&ledger, statements::COUNTS, &[node]).await;
    assert!(!counts.contains("Seq Scan"), "{counts}");
    let page = entries(EntryKind::Refund);
    let page = plan(&ledger, page, &["100", "'\\x'::bytea", "100"]).await;
    assert!(!page.contains("Seq Scan"), "{page}");
    assert!(!page.contains("Sort"), "{page}");

    let counts = ledger.refund_counts(NodeId([2; 33])).await.unwrap();
    assert_eq!((counts.pending, counts.failed, counts.elsewhere), (4, 4, 2));
    let listed = ledger.unpaid_refunds(6).await.unwrap();
    let states: Vec<_> = listed
        .iter()
        .map(|work| work.refund.state.as_str())
        .collect();
    assert_eq!(
        states,
        ["failed", "failed", "failed", "failed", "failed", "pending"]
    );
}
