-- The journal of the grains.
--
-- Every key starts with the tenant, so that row-level security needs no new
-- index. Keys compare by their bytes (COLLATE "C"): the order of an index must
-- not change with a library of the system.
--
-- Migrations only add (tables, columns with a default, indexes), because nodes
-- of the version before run beside them during a rolling upgrade. What is not
-- used any more is removed two versions later, by a migration that raises
-- schema_floor to the oldest schema version whose binaries still fit.

-- +goose Up

CREATE TABLE schema_floor (
    one     boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (one),
    version bigint  NOT NULL
);
INSERT INTO schema_floor (version) VALUES (1);

-- granary_refuse ends a statement of which a part did not apply, so that the
-- rest of it does not either.
-- +goose StatementBegin
CREATE FUNCTION granary_refuse(code text) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RAISE EXCEPTION 'refused by granary' USING ERRCODE = code;
END
$$;
-- +goose StatementEnd

CREATE TABLE owner (
    tenant     text        COLLATE "C" NOT NULL,
    kind       text        COLLATE "C" NOT NULL,
    id         text        COLLATE "C" NOT NULL,
    epoch      bigint      NOT NULL,
    activation text        COLLATE "C" NOT NULL,
    node       text        NOT NULL,
    head       bigint      NOT NULL,
    released   boolean     NOT NULL DEFAULT false,
    since      timestamptz NOT NULL,
    erased     bigint      NOT NULL DEFAULT 0,     -- events up to this seq are erased
    erasures   bigint      NOT NULL DEFAULT 0,     -- how often the grain was erased
    purging    boolean     NOT NULL DEFAULT false, -- erased rows may still lie about
    PRIMARY KEY (tenant, kind, id)
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05); -- rewritten by each append, in place while there is room
CREATE INDEX owner_purging ON owner (tenant, kind, id) WHERE purging;

CREATE TABLE events (
    tenant     text        COLLATE "C" NOT NULL,
    kind       text        COLLATE "C" NOT NULL,
    id         text        COLLATE "C" NOT NULL,
    seq        bigint      NOT NULL,
    time       timestamptz NOT NULL,
    type       text        NOT NULL,
    principal  text        NOT NULL,
    request_id text        NOT NULL,
    data       bytea       NOT NULL,
    PRIMARY KEY (tenant, kind, id, seq)
);

CREATE TABLE idempotency (
    tenant       text        COLLATE "C" NOT NULL,
    kind         text        COLLATE "C" NOT NULL,
    id           text        COLLATE "C" NOT NULL,
    principal    text        COLLATE "C" NOT NULL,
    method       text        COLLATE "C" NOT NULL,
    key          text        COLLATE "C" NOT NULL,
    erasures     bigint      NOT NULL, -- owner.erasures when it was recorded
    request_hash text        NOT NULL,
    response     bytea       NOT NULL,
    expires      timestamptz NOT NULL,
    PRIMARY KEY (tenant, kind, id, principal, method, key)
);
CREATE INDEX idempotency_expires ON idempotency (expires);

CREATE TABLE wakeups (
    tenant text        COLLATE "C" NOT NULL,
    kind   text        COLLATE "C" NOT NULL,
    id     text        COLLATE "C" NOT NULL,
    key    text        COLLATE "C" NOT NULL,
    due    timestamptz NOT NULL,
    PRIMARY KEY (tenant, kind, id, key)
);
CREATE INDEX wakeups_due ON wakeups (due, tenant, kind, id, key);

CREATE TABLE snapshots (
    tenant    text    COLLATE "C" NOT NULL,
    kind      text    COLLATE "C" NOT NULL,
    id        text    COLLATE "C" NOT NULL,
    seq       bigint  NOT NULL,
    packed    boolean NOT NULL, -- state is zstd
    state_sum bigint  NOT NULL, -- crc32c of the unpacked state
    state     bytea   NOT NULL,
    PRIMARY KEY (tenant, kind, id)
);
ALTER TABLE snapshots ALTER COLUMN state SET STORAGE EXTERNAL; -- packed already

-- The search index of a grain: small ones in the row, larger ones in parts.
CREATE SEQUENCE index_gen;
CREATE TABLE indexes (
    tenant text   COLLATE "C" NOT NULL,
    kind   text   COLLATE "C" NOT NULL,
    id     text   COLLATE "C" NOT NULL,
    gen    bigint NOT NULL, -- order in which saves began, and the key of the parts
    parts  bigint NOT NULL, -- 0: data is in this row
    sum    bigint NOT NULL, -- crc32c of the whole
    data   bytea  NOT NULL,
    PRIMARY KEY (tenant, kind, id)
);
ALTER TABLE indexes ALTER COLUMN data SET STORAGE EXTERNAL;

CREATE TABLE index_parts (
    tenant  text        COLLATE "C" NOT NULL,
    kind    text        COLLATE "C" NOT NULL,
    id      text        COLLATE "C" NOT NULL,
    gen     bigint      NOT NULL,
    part    bigint      NOT NULL,
    written timestamptz NOT NULL DEFAULT now(),
    data    bytea       NOT NULL,
    PRIMARY KEY (tenant, kind, id, gen, part)
);
ALTER TABLE index_parts ALTER COLUMN data SET STORAGE EXTERNAL;
