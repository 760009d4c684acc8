-- The audit: journals as hash chains, accesses, signed checkpoints.

-- +goose Up

-- Events of before have no hash: the chain begins with the first one that has.
ALTER TABLE events
    ADD COLUMN remote text  NOT NULL DEFAULT '',
    ADD COLUMN hash   bytea NOT NULL DEFAULT '';
ALTER TABLE snapshots ADD COLUMN hash bytea NOT NULL DEFAULT ''; -- of the event at seq
ALTER TABLE owner
    ADD COLUMN hash   bytea NOT NULL DEFAULT '', -- of the event at head
    ADD COLUMN anchor bytea NOT NULL DEFAULT ''; -- of the event at erased

-- One row per call. tenant is '' for calls of nobody known, and for operators' calls
-- that concern no tenant. stream is one life of one node.
CREATE TABLE accesses (
    tenant     text        COLLATE "C" NOT NULL,
    stream     text        COLLATE "C" NOT NULL,
    seq        bigint      NOT NULL,
    time       timestamptz NOT NULL,
    phase      text        NOT NULL,
    principal  text        NOT NULL,
    credential text        NOT NULL,
    key_id     text        NOT NULL,
    method     text        NOT NULL,
    resource   text        NOT NULL,
    remote     text        NOT NULL,
    request_id text        NOT NULL,
    code       text        NOT NULL,
    reason     text        NOT NULL,
    duration   bigint      NOT NULL, -- microseconds
    count      bigint      NOT NULL,
    hash       bytea       NOT NULL,
    PRIMARY KEY (tenant, stream, seq)
);
CREATE INDEX accesses_time ON accesses (tenant, time, stream, seq);

-- How far each chain of the audit has come; stream '' is the chain of checkpoints.
CREATE TABLE audit_streams (
    tenant text   COLLATE "C" NOT NULL,
    stream text   COLLATE "C" NOT NULL,
    seq    bigint NOT NULL,
    hash   bytea  NOT NULL,
    PRIMARY KEY (tenant, stream)
) WITH (fillfactor = 50);

CREATE TABLE audit_checkpoints (
    tenant    text   COLLATE "C" NOT NULL,
    number    bigint NOT NULL,
    body      bytea  NOT NULL,
    key_id    text   NOT NULL,
    signature bytea  NOT NULL,
    PRIMARY KEY (tenant, number)
);
