-- Times are Unix seconds, UTC. Hashes and keys are raw bytes. No preimage is ever stored here.

CREATE TABLE instance (
    id               INTEGER PRIMARY KEY CHECK (id = 1),
    -- Random name of this ledger: versions of two ledgers cannot be compared.
    epoch            BLOB    NOT NULL CHECK (length(epoch) = 16),
    -- Grows with every change of key generations and revocations; at least the milliseconds since
    -- 1970 of that change, so that a ledger restored from a copy names no version twice.
    version          INTEGER NOT NULL CHECK (version > 0),
    -- Newest version of which removals from the deny list are no longer remembered.
    revocation_floor INTEGER NOT NULL DEFAULT 0 CHECK (revocation_floor >= 0),
    created_at       INTEGER NOT NULL CHECK (created_at >= 0)
) STRICT;

CREATE TABLE key_generations (
    id             INTEGER PRIMARY KEY CHECK (id BETWEEN 0 AND 255),
    state          TEXT    NOT NULL CHECK (state IN ('next', 'current', 'retired')),
    -- NULL: the bytes are in the operator's file.
    secret         BLOB    CHECK (secret IS NULL OR length(secret) = 32),
    fingerprint    BLOB    NOT NULL UNIQUE CHECK (length(fingerprint) = 32),
    -- Latest end of what was issued under it; NULL: nothing was issued that ends.
    issued_until   INTEGER CHECK (issued_until IS NULL OR issued_until >= 0),
    issued_forever INTEGER NOT NULL DEFAULT 0 CHECK (issued_forever IN (0, 1)),
    added_version  INTEGER NOT NULL CHECK (added_version > 0),
    created_at     INTEGER NOT NULL CHECK (created_at >= 0)
) STRICT;
-- At most one next and one current.
CREATE UNIQUE INDEX key_generations_state ON key_generations (state) WHERE state <> 'retired';

CREATE TABLE offers (
    payment_hash BLOB    PRIMARY KEY CHECK (length(payment_hash) = 32),
    token_id     BLOB    CHECK (token_id IS NULL OR length(token_id) = 32),
    service      TEXT    NOT NULL CHECK (length(service) > 0),
    scheme       TEXT    NOT NULL CHECK (scheme IN ('l402', 'charge', 'session')),
    amount_msat  INTEGER NOT NULL CHECK (amount_msat BETWEEN 1 AND 2100000000000000000),
    created_at   INTEGER NOT NULL CHECK (created_at >= 0),
    expires_at   INTEGER NOT NULL CHECK (expires_at >= created_at),
    -- NULL: what was sold is valid for ever.
    valid_until  INTEGER CHECK (valid_until IS NULL OR valid_until >= 0),
    state        TEXT    NOT NULL DEFAULT 'offered' CHECK (state IN ('offered', 'settled'))
) STRICT, WITHOUT ROWID;
CREATE INDEX offers_unpaid ON offers (expires_at) WHERE state = 'offered';
CREATE INDEX offers_paid ON offers (valid_until) WHERE state = 'settled';
CREATE UNIQUE INDEX offers_token ON offers (token_id) WHERE token_id IS NOT NULL;

-- One row per payment, whatever it bought.
CREATE TABLE sales (
    payment_hash BLOB    PRIMARY KEY CHECK (length(payment_hash) = 32),
    scheme       TEXT    NOT NULL CHECK (scheme IN ('l402', 'charge', 'session')),
    service      TEXT    NOT NULL CHECK (length(service) > 0),
    -- What was really paid.
    amount_msat  INTEGER NOT NULL CHECK (amount_msat BETWEEN 1 AND 2100000000000000000),
    settled_at   INTEGER NOT NULL CHECK (settled_at >= 0),
    recorded_at  INTEGER NOT NULL DEFAULT (unixepoch()) CHECK (recorded_at >= 0)
) STRICT, WITHOUT ROWID;
CREATE INDEX sales_time ON sales (settled_at);

-- How far the settlements of each node have been recorded.
CREATE TABLE settle_indexes (
    node         BLOB    PRIMARY KEY CHECK (length(node) = 33),
    settle_index INTEGER NOT NULL CHECK (settle_index > 0)
) STRICT, WITHOUT ROWID;

CREATE TABLE revocations (
    identifier_hash BLOB    PRIMARY KEY CHECK (length(identifier_hash) = 32),
    added_version   INTEGER NOT NULL CHECK (added_version > 0),
    -- When the token expires by itself; NULL: never.
    expires_at      INTEGER CHECK (expires_at IS NULL OR expires_at >= 0),
    -- Set when it left the list; the row stays for a while so that filters can be told.
    removed_version INTEGER CHECK (removed_version IS NULL OR removed_version > added_version),
    created_at      INTEGER NOT NULL CHECK (created_at >= 0)
) STRICT, WITHOUT ROWID;
CREATE INDEX revocations_expiry ON revocations (expires_at) WHERE removed_version IS NULL;
