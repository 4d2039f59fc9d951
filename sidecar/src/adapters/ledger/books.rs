//! The SQL of bookkeeping. It is the same on both stores, and none of it is in a hurry.

use crate::domain::books::EntryKind;

/// An invariant: a query for all that contradicts it.
pub(super) struct Rule {
    /// What must not be.
    pub(super) says: &'static str,
    /// What the numbers are.
    pub(super) names: &'static [&'static str],
    /// Gives an id and a number for each name, which may be NULL.
    pub(super) sql: &'static str,
}

/// Design section 9, invariants 3 and 4, as far as the tables tell. What one row can say by itself
/// (a lease has used no more than it was granted, a session has spent no more than was deposited)
/// the tables refuse.
pub(super) const RULES: &[Rule] = &[
    Rule {
        says: "more is spent and held than was deposited",
        names: &["deposited", "spent", "held", "too_much"],
        sql: "SELECT session_id, deposited_sat, spent_sat, held, spent_sat + held - deposited_sat
              FROM (SELECT s.session_id, s.deposited_sat, s.spent_sat,
                           CAST(coalesce(sum(h.granted - h.used), 0) AS bigint) AS held
                    FROM sessions s
                    LEFT JOIN lease_holders h ON h.session_id = s.session_id AND h.is_live
                    GROUP BY s.session_id, s.deposited_sat, s.spent_sat) AS accounts
              WHERE spent_sat + held > deposited_sat",
    },
    // Leases are forgotten an hour after their end; what they had spent is kept with the session.
    Rule {
        says: "what is spent is not what its leases have used and not given back",
        names: &["spent", "used_and_forgotten", "used", "difference"],
        sql: "SELECT session_id, spent_sat, forgotten_sat, used, spent_sat - forgotten_sat - used
              FROM (SELECT s.session_id, s.spent_sat, s.forgotten_sat,
                           CAST(coalesce(sum(h.used - h.returned), 0) AS bigint) AS used
                    FROM sessions s LEFT JOIN lease_holders h ON h.session_id = s.session_id
                    GROUP BY s.session_id, s.spent_sat, s.forgotten_sat) AS accounts
              WHERE spent_sat <> forgotten_sat + used",
    },
    Rule {
        says: "leases that have ended hold what is to go back",
        names: &["held", "leases"],
        sql: "SELECT session_id, CAST(sum(granted - used) AS bigint), count(*)
              FROM lease_holders WHERE NOT is_live AND granted <> used GROUP BY session_id",
    },
    Rule {
        says: "leases that had ended live again",
        names: &["reported_late", "leases"],
        sql: "SELECT session_id, CAST(sum(late) AS bigint), count(*)
              FROM lease_holders WHERE is_live AND late > 0 GROUP BY session_id",
    },
    Rule {
        says: "what was deposited is not what its payments were claimed for",
        names: &["deposited", "claimed", "payments"],
        sql: "SELECT s.session_id, s.deposited_sat,
                     CAST(coalesce(sum(c.amount_sat), 0) AS bigint), count(c.payment_hash)
              FROM sessions s
              LEFT JOIN session_results r ON r.session_id = s.session_id AND r.kind <> 'close'
              LEFT JOIN claims c ON c.payment_hash = r.payment_hash AND c.purpose = r.kind
              GROUP BY s.session_id, s.deposited_sat
              HAVING s.deposited_sat <> coalesce(sum(c.amount_sat), 0)",
    },
    Rule {
        says: "the session does not begin with a deposit of its own",
        names: &["deposited"],
        sql: "SELECT s.session_id, s.deposited_sat FROM sessions s
              WHERE NOT EXISTS (SELECT 1 FROM session_results r
                                WHERE r.session_id = s.session_id AND r.kind = 'open'
                                      AND r.payment_hash = s.session_id)",
    },
    Rule {
        says: "the payment was claimed for a deposit that no session has",
        names: &["claimed"],
        sql: "SELECT c.payment_hash, c.amount_sat
              FROM claims c
              WHERE c.purpose <> 'charge'
                    AND NOT EXISTS (SELECT 1 FROM session_results r
                                    WHERE r.payment_hash = c.payment_hash AND r.kind = c.purpose)",
    },
    Rule {
        says: "the payment was credited more than once",
        names: &["times"],
        sql: "SELECT r.payment_hash, count(*)
              FROM session_results r WHERE r.kind <> 'close'
              GROUP BY r.payment_hash HAVING count(*) > 1",
    },
    Rule {
        says: "what was credited is not what was paid",
        names: &["credited", "paid_msat"],
        sql: "SELECT c.payment_hash, c.amount_sat, p.amount_msat
              FROM claims c JOIN sales p ON p.payment_hash = c.payment_hash
              WHERE c.purpose <> 'charge'
                    AND (c.amount_sat <> p.amount_msat / 1000 OR p.scheme <> 'session')",
    },
    Rule {
        says: "it was credited, and nobody paid it",
        names: &["credited"],
        sql: "SELECT c.payment_hash, c.amount_sat
              FROM claims c LEFT JOIN sales p ON p.payment_hash = c.payment_hash
              WHERE c.purpose <> 'charge' AND p.payment_hash IS NULL",
    },
    Rule {
        says: "it was paid, and its offer says that it was not",
        names: &["paid_msat"],
        sql: "SELECT p.payment_hash, p.amount_msat
              FROM offers o JOIN sales p ON p.payment_hash = o.payment_hash
              WHERE o.state = 'offered'",
    },
    Rule {
        says: "the session is closing and nothing holds it up",
        names: &["deposited", "spent"],
        sql: "SELECT s.session_id, s.deposited_sat, s.spent_sat
              FROM sessions s
              WHERE s.state = 'closing'
                    AND NOT EXISTS (SELECT 1 FROM lease_holders h
                                    WHERE h.session_id = s.session_id AND h.is_live)",
    },
    Rule {
        says: "the session is closed and has leases",
        names: &["leases"],
        sql: "SELECT s.session_id, count(*)
              FROM sessions s JOIN lease_holders h ON h.session_id = s.session_id
              WHERE s.state = 'closed' AND h.is_live GROUP BY s.session_id",
    },
    Rule {
        says: "what the closed session spent and is owed is not what was deposited",
        names: &["deposited", "spent", "owed"],
        sql: "SELECT s.session_id, s.deposited_sat, s.spent_sat, coalesce(f.amount_sat, 0)
              FROM sessions s LEFT JOIN refunds f ON f.session_id = s.session_id
              WHERE s.state = 'closed'
                    AND s.deposited_sat <> s.spent_sat + coalesce(f.amount_sat, 0)",
    },
    Rule {
        says: "the session is not closed and has a refund",
        names: &["owed"],
        sql: "SELECT s.session_id, f.amount_sat
              FROM sessions s JOIN refunds f ON f.session_id = s.session_id
              WHERE s.state <> 'closed'",
    },
    Rule {
        says: "the refund goes elsewhere than the session says",
        names: &["owed"],
        sql: "SELECT s.session_id, f.amount_sat
              FROM sessions s JOIN refunds f ON f.session_id = s.session_id
              WHERE f.return_hash <> s.return_hash OR f.node <> s.node",
    },
    Rule {
        says: "the refund was paid, and what was sent is unknown or more than is owed",
        names: &["owed", "sent", "fee_msat"],
        sql: "SELECT f.session_id, f.amount_sat, f.sent_sat, f.fee_msat FROM refunds f
              WHERE f.state = 'succeeded'
                    AND (f.sent_sat IS NULL OR f.fee_msat IS NULL OR f.sent_sat > f.amount_sat)",
    },
    Rule {
        says: "routing of the refund cost more than it might",
        names: &["fee_msat", "limit_msat"],
        sql: "SELECT f.session_id, f.fee_msat, f.fee_limit_msat
              FROM refunds f
              WHERE f.state = 'succeeded' AND f.fee_msat > f.fee_limit_msat",
    },
    Rule {
        says: "more was promised to go back than is left",
        names: &["promised", "deposited", "spent"],
        sql: "SELECT s.session_id, r.refund_sats, s.deposited_sat, s.spent_sat
              FROM sessions s JOIN session_results r ON r.session_id = s.session_id
              WHERE r.kind = 'close' AND r.refund_sats > s.deposited_sat - s.spent_sat",
    },
];

/// Key, id, service, state, seconds, and four amounts in millisatoshi, from key $1 and id $2 on.
pub(super) const fn entries(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Sale => {
            "SELECT settled_at, payment_hash, service, scheme, settled_at, amount_msat,
                    CAST(NULL AS bigint), CAST(NULL AS bigint), CAST(NULL AS bigint)
             FROM sales WHERE (settled_at, payment_hash) > ($1, $2)
             ORDER BY settled_at, payment_hash LIMIT $3"
        }
        // Claims of deposits are kept for ever.
        EntryKind::UnclaimedDeposit => {
            "SELECT settled_at, payment_hash, service, scheme, settled_at, amount_msat,
                    CAST(NULL AS bigint), CAST(NULL AS bigint), CAST(NULL AS bigint)
             FROM sales WHERE (settled_at, payment_hash) > ($1, $2) AND scheme = 'session'
                AND NOT EXISTS (SELECT 1 FROM claims c WHERE c.payment_hash = sales.payment_hash)
             ORDER BY settled_at, payment_hash LIMIT $3"
        }
        // Claims of charges are forgotten, and then noted here.
        EntryKind::UnclaimedCharge => {
            "SELECT settled_at, payment_hash, service, scheme, settled_at, amount_msat,
                    CAST(NULL AS bigint), CAST(NULL AS bigint), CAST(NULL AS bigint)
             FROM sales WHERE (settled_at, payment_hash) > ($1, $2) AND scheme = 'charge'
                AND NOT was_claimed
                AND NOT EXISTS (SELECT 1 FROM claims c WHERE c.payment_hash = sales.payment_hash)
             ORDER BY settled_at, payment_hash LIMIT $3"
        }
        EntryKind::Session => {
            "SELECT opened_ms, session_id, service, state, opened_ms / 1000, deposited_sat * 1000,
                    spent_sat * 1000, CAST(NULL AS bigint), CAST(NULL AS bigint)
             FROM sessions WHERE (opened_ms, session_id) > ($1, $2)
             ORDER BY opened_ms, session_id LIMIT $3"
        }
        EntryKind::Refund => {
            "SELECT f.updated_ms, f.session_id, s.service, f.state, f.updated_ms / 1000,
                    f.amount_sat * 1000, CAST(NULL AS bigint), f.sent_sat * 1000, f.fee_msat
             FROM refunds f JOIN sessions s ON s.session_id = f.session_id
             WHERE (f.updated_ms, f.session_id) > ($1, $2)
             ORDER BY f.updated_ms, f.session_id LIMIT $3"
        }
    }
}
