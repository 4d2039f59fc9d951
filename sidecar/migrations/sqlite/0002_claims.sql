-- One row per payment that was presented, whatever it bought. Sales keep what was paid; a claim is
-- needed only as long as its challenge can be presented.
CREATE TABLE claims (
    payment_hash BLOB    PRIMARY KEY CHECK (length(payment_hash) = 32),
    purpose      TEXT    NOT NULL CHECK (purpose IN ('charge', 'open', 'topup')),
    -- The filter's attempt that has it.
    attempt      BLOB    NOT NULL CHECK (length(attempt) = 16),
    challenge_id TEXT    NOT NULL CHECK (length(challenge_id) BETWEEN 1 AND 128),
    service      TEXT    NOT NULL CHECK (length(service) > 0),
    amount_sat   INTEGER NOT NULL CHECK (amount_sat BETWEEN 1 AND 2100000000000000),
    -- When the challenge expires.
    expires_at   INTEGER NOT NULL CHECK (expires_at >= 0),
    -- Milliseconds: whether a claim is young is a matter of three seconds.
    claimed_ms   INTEGER NOT NULL CHECK (claimed_ms >= 0)
) STRICT, WITHOUT ROWID;
CREATE INDEX claims_expiry ON claims (expires_at) WHERE purpose = 'charge';

-- Attempts that must not win any more, also when their claim arrives later.
CREATE TABLE abandoned_attempts (
    payment_hash BLOB    NOT NULL CHECK (length(payment_hash) = 32),
    attempt      BLOB    NOT NULL CHECK (length(attempt) = 16),
    abandoned_at INTEGER NOT NULL CHECK (abandoned_at >= 0),
    PRIMARY KEY (payment_hash, attempt)
) STRICT, WITHOUT ROWID;
CREATE INDEX abandoned_attempts_time ON abandoned_attempts (abandoned_at);
