-- One row per payment that was presented, whatever it bought. Sales keep what was paid; a claim is
-- needed only as long as its challenge can be presented.
CREATE TABLE claims (
    payment_hash bytea  PRIMARY KEY CHECK (length(payment_hash) = 32),
    purpose      text   NOT NULL CHECK (purpose IN ('charge', 'open', 'topup')),
    -- The filter's attempt that has it.
    attempt      bytea  NOT NULL CHECK (length(attempt) = 16),
    challenge_id text   NOT NULL CHECK (length(challenge_id) BETWEEN 1 AND 128),
    service      text   NOT NULL CHECK (length(service) > 0),
    amount_sat   bigint NOT NULL CHECK (amount_sat BETWEEN 1 AND 2100000000000000),
    -- When the challenge expires.
    expires_at   bigint NOT NULL CHECK (expires_at >= 0),
    -- Milliseconds: whether a claim is young is a matter of three seconds.
    claimed_ms   bigint NOT NULL CHECK (claimed_ms >= 0)
);
CREATE INDEX claims_expiry ON claims (expires_at) WHERE purpose = 'charge';

-- Attempts that must not win any more, also when their claim arrives later.
CREATE TABLE abandoned_attempts (
    payment_hash bytea  NOT NULL CHECK (length(payment_hash) = 32),
    attempt      bytea  NOT NULL CHECK (length(attempt) = 16),
    abandoned_at bigint NOT NULL CHECK (abandoned_at >= 0),
    PRIMARY KEY (payment_hash, attempt)
);
CREATE INDEX abandoned_attempts_time ON abandoned_attempts (abandoned_at);
