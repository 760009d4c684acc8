-- The journal of the grains. Every key starts with the tenant. Times are
-- microseconds since 1970, so that PostgreSQL's timestamptz holds the same.

-- +goose Up

-- How often this folder was opened; the high half of every generation number.
CREATE TABLE boot (
    one   INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    count INTEGER NOT NULL
) STRICT;
INSERT INTO boot (one, count) VALUES (1, 0);

CREATE TABLE owner (
    tenant     TEXT    NOT NULL,
    kind       TEXT    NOT NULL,
    id         TEXT    NOT NULL,
    epoch      INTEGER NOT NULL,
    activation TEXT    NOT NULL,
    node       TEXT    NOT NULL,
    head       INTEGER NOT NULL,
    released   INTEGER NOT NULL DEFAULT 0,
    since      INTEGER NOT NULL,
    erased     INTEGER NOT NULL DEFAULT 0, -- events up to this seq are erased
    erasures   INTEGER NOT NULL DEFAULT 0, -- how often the grain was erased
    purging    INTEGER NOT NULL DEFAULT 0, -- 1: erased rows may still lie about
    PRIMARY KEY (tenant, kind, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX owner_purging ON owner (tenant, kind, id) WHERE purging = 1;

CREATE TABLE events (
    tenant     TEXT    NOT NULL,
    kind       TEXT    NOT NULL,
    id         TEXT    NOT NULL,
    seq        INTEGER NOT NULL,
    time       INTEGER NOT NULL,
    type       TEXT    NOT NULL,
    principal  TEXT    NOT NULL,
    request_id TEXT    NOT NULL,
    data       BLOB    NOT NULL,
    PRIMARY KEY (tenant, kind, id, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE idempotency (
    tenant       TEXT    NOT NULL,
    kind         TEXT    NOT NULL,
    id           TEXT    NOT NULL,
    principal    TEXT    NOT NULL,
    method       TEXT    NOT NULL,
    key          TEXT    NOT NULL,
    erasures     INTEGER NOT NULL, -- owner.erasures when it was recorded
    request_hash TEXT    NOT NULL,
    response     BLOB    NOT NULL,
    expires      INTEGER NOT NULL,
    PRIMARY KEY (tenant, kind, id, principal, method, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_expires ON idempotency (expires);

CREATE TABLE wakeups (
    tenant TEXT    NOT NULL,
    kind   TEXT    NOT NULL,
    id     TEXT    NOT NULL,
    key    TEXT    NOT NULL,
    due    INTEGER NOT NULL,
    PRIMARY KEY (tenant, kind, id, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX wakeups_due ON wakeups (due);

CREATE TABLE snapshots (
    tenant    TEXT    NOT NULL,
    kind      TEXT    NOT NULL,
    id        TEXT    NOT NULL,
    seq       INTEGER NOT NULL,
    packed    INTEGER NOT NULL, -- 1: state is zstd
    state_sum INTEGER NOT NULL, -- crc32c of the unpacked state
    state     BLOB    NOT NULL,
    PRIMARY KEY (tenant, kind, id)
) STRICT;

-- The search index of a grain: small ones in the row, larger ones in parts.
CREATE TABLE indexes (
    tenant TEXT    NOT NULL,
    kind   TEXT    NOT NULL,
    id     TEXT    NOT NULL,
    gen    INTEGER NOT NULL, -- order in which saves began, and the key of the parts
    parts  INTEGER NOT NULL, -- 0: data is in this row
    sum    INTEGER NOT NULL, -- crc32c of the whole
    data   BLOB    NOT NULL,
    PRIMARY KEY (tenant, kind, id)
) STRICT;

CREATE TABLE index_parts (
    tenant TEXT    NOT NULL,
    kind   TEXT    NOT NULL,
    id     TEXT    NOT NULL,
    gen    INTEGER NOT NULL,
    part   INTEGER NOT NULL,
    data   BLOB    NOT NULL,
    PRIMARY KEY (tenant, kind, id, gen, part)
) STRICT;
