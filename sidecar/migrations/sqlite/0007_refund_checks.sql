-- What a refund must know in each state: without it, nobody could tell what became of it. A table
-- gets new checks by being made anew.
CREATE TABLE refunds_checked (
    session_id      BLOB    PRIMARY KEY REFERENCES sessions (session_id),
    -- Only this node pays it.
    node            BLOB    NOT NULL CHECK (length(node) = 33),
    return_invoice  TEXT    NOT NULL CHECK (length(return_invoice) BETWEEN 1 AND 2048),
    return_hash     BLOB    NOT NULL UNIQUE CHECK (length(return_hash) = 32),
    amount_sat      INTEGER NOT NULL CHECK (amount_sat BETWEEN 1 AND 2100000000000000),
    state           TEXT    NOT NULL DEFAULT 'pending'
                            CHECK (state IN ('pending', 'sending', 'succeeded', 'failed')),
    attempts        INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    -- What routing cost.
    fee_msat        INTEGER CHECK (fee_msat >= 0),
    -- Why it cannot be paid, in words for the operator.
    failure         TEXT,
    created_ms      INTEGER NOT NULL CHECK (created_ms >= 0),
    updated_ms      INTEGER NOT NULL CHECK (updated_ms >= 0),
    -- Who works on it, and until when nobody else may.
    worker          BLOB    CHECK (length(worker) = 16),
    worked_until_ms INTEGER CHECK (worked_until_ms >= 0),
    -- What the buyer is sent, fixed when it is first handed to the node: never more than the amount.
    sent_sat        INTEGER CHECK (sent_sat BETWEEN 1 AND amount_sat),
    -- What routing may cost, reserved in the daily budget until the outcome is known.
    fee_limit_msat  INTEGER CHECK (fee_limit_msat >= 0),
    -- When it was last handed to the node.
    sent_ms         INTEGER CHECK (sent_ms >= 0),
    -- Not looked at before.
    due_ms          INTEGER NOT NULL DEFAULT 0 CHECK (due_ms >= 0),
    CHECK ((worker IS NULL) = (worked_until_ms IS NULL)),
    CHECK (state NOT IN ('sending', 'succeeded') OR sent_sat IS NOT NULL),
    CHECK ((sent_sat IS NULL) = (fee_limit_msat IS NULL)),
    CHECK (state <> 'succeeded' OR fee_msat IS NOT NULL)
) STRICT;
INSERT INTO refunds_checked
SELECT session_id, node, return_invoice, return_hash, amount_sat, state, attempts, fee_msat,
       failure, created_ms, updated_ms, worker, worked_until_ms, sent_sat, fee_limit_msat, sent_ms,
       due_ms
FROM refunds;
DROP TABLE refunds;
ALTER TABLE refunds_checked RENAME TO refunds;
CREATE INDEX refunds_due ON refunds (created_ms) WHERE state IN ('pending', 'sending');
CREATE INDEX refunds_failed ON refunds (updated_ms) WHERE state = 'failed';
CREATE INDEX refunds_due_at ON refunds (node, due_ms) WHERE state IN ('pending', 'sending');
CREATE INDEX refunds_sending ON refunds (node) WHERE state = 'sending';
CREATE INDEX refunds_sent ON refunds (node, sent_ms) WHERE sent_ms IS NOT NULL;
CREATE INDEX refunds_updated ON refunds (updated_ms, session_id);
-- A second guard, beside the claim, of each deposit being credited once.
CREATE UNIQUE INDEX session_results_payment ON session_results (payment_hash)
    WHERE kind <> 'close';
