-- Times are Unix seconds, UTC. Hashes and keys are raw bytes. No preimage is ever stored here.

CREATE TABLE instance (
    id               smallint PRIMARY KEY CHECK (id = 1),
    -- Random name of this ledger: versions of two ledgers cannot be compared.
    epoch            bytea    NOT NULL CHECK (length(epoch) = 16),
    -- Grows with every change of key generations and revocations; at least the milliseconds since
    -- 1970 of that change, so that a ledger restored from a copy names no version twice.
    version          bigint   NOT NULL CHECK (version > 0),
    -- Newest version of which removals from the deny list are no longer remembered.
    revocation_floor bigint   NOT NULL DEFAULT 0 CHECK (revocation_floor >= 0),
    created_at       bigint   NOT NULL CHECK (created_at >= 0)
);
INSERT INTO instance (id, epoch, version, created_at)
VALUES (1, uuid_send(gen_random_uuid()), 1, extract(epoch FROM clock_timestamp())::bigint);

CREATE TABLE key_generations (
    id             smallint PRIMARY KEY CHECK (id BETWEEN 0 AND 255),
    state          text     NOT NULL CHECK (state IN ('next', 'current', 'retired')),
    -- NULL: the bytes are in the operator's file.
    secret         bytea    CHECK (secret IS NULL OR length(secret) = 32),
    fingerprint    bytea    NOT NULL UNIQUE CHECK (length(fingerprint) = 32),
    -- Latest end of what was issued under it; NULL: nothing was issued that ends.
    issued_until   bigint   CHECK (issued_until IS NULL OR issued_until >= 0),
    issued_forever boolean  NOT NULL DEFAULT false,
    added_version  bigint   NOT NULL CHECK (added_version > 0),
    created_at     bigint   NOT NULL CHECK (created_at >= 0)
);
-- At most one next and one current.
CREATE UNIQUE INDEX key_generations_state ON key_generations (state) WHERE state <> 'retired';

CREATE TABLE offers (
    payment_hash bytea  PRIMARY KEY CHECK (length(payment_hash) = 32),
    token_id     bytea  CHECK (token_id IS NULL OR length(token_id) = 32),
    service      text   NOT NULL CHECK (length(service) > 0),
    scheme       text   NOT NULL CHECK (scheme IN ('l402', 'charge', 'session')),
    amount_msat  bigint NOT NULL CHECK (amount_msat BETWEEN 1 AND 2100000000000000000),
    created_at   bigint NOT NULL CHECK (created_at >= 0),
    expires_at   bigint NOT NULL CHECK (expires_at >= created_at),
    -- NULL: what was sold is valid for ever.
    valid_until  bigint CHECK (valid_until IS NULL OR valid_until >= 0),
    state        text   NOT NULL DEFAULT 'offered' CHECK (state IN ('offered', 'settled'))
);
CREATE INDEX offers_unpaid ON offers (expires_at) WHERE state = 'offered';
CREATE INDEX offers_paid ON offers (valid_until) WHERE state = 'settled';
CREATE UNIQUE INDEX offers_token ON offers (token_id) WHERE token_id IS NOT NULL;

-- One row per payment, whatever it bought.
CREATE TABLE sales (
    payment_hash bytea  PRIMARY KEY CHECK (length(payment_hash) = 32),
    scheme       text   NOT NULL CHECK (scheme IN ('l402', 'charge', 'session')),
    service      text   NOT NULL CHECK (length(service) > 0),
    -- What was really paid.
    amount_msat  bigint NOT NULL CHECK (amount_msat BETWEEN 1 AND 2100000000000000000),
    settled_at   bigint NOT NULL CHECK (settled_at >= 0),
    recorded_at  bigint NOT NULL DEFAULT extract(epoch FROM clock_timestamp())::bigint
                        CHECK (recorded_at >= 0)
);
CREATE INDEX sales_time ON sales (settled_at);

-- How far the settlements of each node have been recorded.
CREATE TABLE settle_indexes (
    node         bytea  PRIMARY KEY CHECK (length(node) = 33),
    settle_index bigint NOT NULL CHECK (settle_index > 0)
);

CREATE TABLE revocations (
    identifier_hash bytea  PRIMARY KEY CHECK (length(identifier_hash) = 32),
    added_version   bigint NOT NULL CHECK (added_version > 0),
    -- When the token expires by itself; NULL: never.
    expires_at      bigint CHECK (expires_at IS NULL OR expires_at >= 0),
    -- Set when it left the list; the row stays for a while so that filters can be told.
    removed_version bigint CHECK (removed_version IS NULL OR removed_version > added_version),
    created_at      bigint NOT NULL CHECK (created_at >= 0)
);
CREATE INDEX revocations_expiry ON revocations (expires_at) WHERE removed_version IS NULL;

-- What the sidecars of one ledger tell each other. Lost, it is told again within a second.

-- When each filter VM polled last, whichever sidecar it asked, and what it has installed.
CREATE TABLE filters (
    vm      text   PRIMARY KEY CHECK (length(vm) = 32),
    -- NULL: nothing of this ledger.
    version bigint CHECK (version IS NULL OR version > 0),
    seen_ms bigint NOT NULL CHECK (seen_ms >= 0)
);
CREATE INDEX filters_seen ON filters (seen_ms);

-- Which sidecar does what one alone has to do, and until when it has it.
CREATE TABLE duties (
    duty     text   PRIMARY KEY CHECK (length(duty) > 0),
    holder   bytea  NOT NULL CHECK (length(holder) = 16),
    until_ms bigint NOT NULL CHECK (until_ms >= 0)
);
