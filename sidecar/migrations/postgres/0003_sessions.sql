-- Sessions of the Payment scheme. Amounts are whole satoshis. Moments in `_ms` columns are
-- milliseconds since 1970, UTC, by the clock of the ledger; others are seconds.

-- Kept for ever: a session is never reopened, and its deposits never credited again.
CREATE TABLE sessions (
    -- Payment hash of the first deposit.
    session_id           bytea    PRIMARY KEY CHECK (length(session_id) = 32),
    service              text     NOT NULL CHECK (length(service) > 0),
    deposited_sat        bigint   NOT NULL CHECK (deposited_sat BETWEEN 1 AND 2100000000000000),
    spent_sat            bigint   NOT NULL DEFAULT 0,
    return_invoice       text     NOT NULL CHECK (length(return_invoice) BETWEEN 1 AND 2048),
    -- One session per return invoice: a node pays a hash once.
    return_hash          bytea    NOT NULL UNIQUE CHECK (length(return_hash) = 32),
    return_expires_at    bigint   NOT NULL CHECK (return_expires_at >= 0),
    -- Closed then at the latest, so that the refund can still be paid.
    close_by             bigint   NOT NULL CHECK (close_by BETWEEN 0 AND return_expires_at),
    -- Public key of the node that has the deposits; only it pays the refund.
    node                 bytea    NOT NULL CHECK (length(node) = 33),
    -- Key generations of the first and of the newest deposit's challenge: bearers show them.
    generation           smallint NOT NULL CHECK (generation BETWEEN 0 AND 255),
    newest_generation    smallint NOT NULL CHECK (newest_generation BETWEEN 0 AND 255),
    idle_timeout_seconds bigint   NOT NULL CHECK (idle_timeout_seconds BETWEEN 1 AND 31622400),
    -- closing: no more grants, leases are still out; closed: the refund is fixed.
    state                text     NOT NULL DEFAULT 'open'
                                  CHECK (state IN ('open', 'closing', 'closed')),
    opened_ms            bigint   NOT NULL CHECK (opened_ms >= 0),
    active_ms            bigint   NOT NULL CHECK (active_ms >= 0),
    -- When it stopped granting.
    closed_ms            bigint   CHECK (closed_ms >= 0),
    CHECK (0 <= spent_sat AND spent_sat <= deposited_sat),
    CHECK ((state = 'open') = (closed_ms IS NULL))
);
CREATE INDEX sessions_idle ON sessions ((active_ms + idle_timeout_seconds * 1000))
    WHERE state = 'open';
CREATE INDEX sessions_close_by ON sessions (close_by) WHERE state = 'open';
CREATE INDEX sessions_closing ON sessions (closed_ms) WHERE state = 'closing';
CREATE INDEX sessions_generation ON sessions (generation) WHERE state <> 'closed';
CREATE INDEX sessions_newest_generation ON sessions (newest_generation) WHERE state <> 'closed';
CREATE INDEX sessions_opened ON sessions (opened_ms);

-- What each filter VM may spend of a session. Rows of holders that have ended are deleted after
-- an hour.
CREATE TABLE lease_holders (
    session_id  bytea   NOT NULL REFERENCES sessions (session_id),
    holder      bytea   NOT NULL CHECK (length(holder) = 16),
    granted     bigint  NOT NULL CHECK (granted >= 0),
    used        bigint  NOT NULL CHECK (used BETWEEN 0 AND granted),
    returned    bigint  NOT NULL CHECK (returned BETWEEN 0 AND used),
    -- Reported after it had ended; never debited.
    late        bigint  NOT NULL CHECK (late >= 0),
    is_live     boolean NOT NULL,
    is_recalled boolean NOT NULL,
    seen_ms     bigint  NOT NULL CHECK (seen_ms >= 0),
    PRIMARY KEY (session_id, holder)
);
-- Of one session there may be a thousand that have ended, and few that live.
CREATE INDEX lease_holders_account ON lease_holders (session_id) WHERE is_live;
CREATE INDEX lease_holders_live ON lease_holders (seen_ms) WHERE is_live;
CREATE INDEX lease_holders_ended ON lease_holders (seen_ms) WHERE NOT is_live;

-- What was answered to open, topUp and close, so that a repeated call is answered the same.
-- A challenge may both open a session and close it, and one that nobody has paid may be shown to
-- several buyers, who each close theirs with it.
CREATE TABLE session_results (
    challenge_id  text   NOT NULL CHECK (length(challenge_id) BETWEEN 1 AND 128),
    session_id    bytea  NOT NULL REFERENCES sessions (session_id),
    kind          text   NOT NULL CHECK (kind IN ('open', 'topup', 'close')),
    -- The same for two calls that say the same.
    fingerprint   bytea  NOT NULL CHECK (length(fingerprint) = 32),
    payment_hash  bytea  NOT NULL CHECK (length(payment_hash) = 32),
    -- When it was done.
    at            bigint NOT NULL CHECK (at >= 0),
    -- Forgotten then; NULL: kept as long as the session.
    expires_at    bigint CHECK (expires_at >= 0),
    -- Of a close: what was answered first; NULL: nothing yet.
    refund_sats   bigint CHECK (refund_sats BETWEEN 0 AND 2100000000000000),
    refund_status text   CHECK (refund_status IN ('succeeded', 'failed', 'skipped')),
    PRIMARY KEY (challenge_id, session_id, kind),
    CHECK ((kind = 'close') = (expires_at IS NOT NULL)),
    CHECK (kind = 'close' OR refund_sats IS NULL),
    CHECK ((refund_sats IS NULL) = (refund_status IS NULL))
);
CREATE INDEX session_results_deposits ON session_results (session_id, payment_hash)
    WHERE kind <> 'close';
CREATE INDEX session_results_expiry ON session_results (expires_at) WHERE kind = 'close';

-- What is owed to a buyer, written in the transaction that fixes it.
CREATE TABLE refunds (
    session_id      bytea  PRIMARY KEY REFERENCES sessions (session_id),
    -- Only this node pays it.
    node            bytea  NOT NULL CHECK (length(node) = 33),
    return_invoice  text   NOT NULL CHECK (length(return_invoice) BETWEEN 1 AND 2048),
    return_hash     bytea  NOT NULL UNIQUE CHECK (length(return_hash) = 32),
    amount_sat      bigint NOT NULL CHECK (amount_sat BETWEEN 1 AND 2100000000000000),
    state           text   NOT NULL DEFAULT 'pending'
                           CHECK (state IN ('pending', 'sending', 'succeeded', 'failed')),
    attempts        bigint NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    -- What routing cost.
    fee_msat        bigint CHECK (fee_msat >= 0),
    -- Why it cannot be paid, in words for the operator.
    failure         text   ,
    created_ms      bigint NOT NULL CHECK (created_ms >= 0),
    updated_ms      bigint NOT NULL CHECK (updated_ms >= 0),
    -- Who works on it, and until when nobody else may.
    worker          bytea  CHECK (length(worker) = 16),
    worked_until_ms bigint CHECK (worked_until_ms >= 0),
    CHECK ((worker IS NULL) = (worked_until_ms IS NULL))
);
CREATE INDEX refunds_due ON refunds (created_ms) WHERE state IN ('pending', 'sending');
CREATE INDEX refunds_failed ON refunds (updated_ms) WHERE state = 'failed';

-- When some sidecar last heard reports and ended what was silent: what nobody could hear must not
-- end.
CREATE TABLE hearing (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    heard_ms bigint  NOT NULL CHECK (heard_ms >= 0)
);
INSERT INTO hearing (heard_ms) VALUES (0);
