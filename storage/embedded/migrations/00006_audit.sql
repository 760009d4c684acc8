-- The audit: journals as hash chains, accesses, signed checkpoints.

-- +goose Up

-- Events of before have no hash: the chain begins with the first one that has.
ALTER TABLE events ADD COLUMN remote TEXT NOT NULL DEFAULT '';
ALTER TABLE events ADD COLUMN hash BLOB NOT NULL DEFAULT x'';
ALTER TABLE snapshots ADD COLUMN hash BLOB NOT NULL DEFAULT x''; -- of the event at seq
ALTER TABLE owner ADD COLUMN hash BLOB NOT NULL DEFAULT x'';     -- of the event at head
ALTER TABLE owner ADD COLUMN anchor BLOB NOT NULL DEFAULT x'';   -- of the event at erased

-- One row per call. tenant is '' for calls of nobody known, and for operators' calls
-- that concern no tenant. stream is one life of one node.
CREATE TABLE accesses (
    tenant      TEXT    NOT NULL,
    stream      TEXT    NOT NULL,
    seq         INTEGER NOT NULL,
    time        INTEGER NOT NULL,
    phase       TEXT    NOT NULL,
    principal   TEXT    NOT NULL,
    credential  TEXT    NOT NULL,
    key_id      TEXT    NOT NULL,
    method      TEXT    NOT NULL,
    resource    TEXT    NOT NULL,
    remote      TEXT    NOT NULL,
    request_id  TEXT    NOT NULL,
    code        TEXT    NOT NULL,
    reason      TEXT    NOT NULL,
    duration    INTEGER NOT NULL, -- microseconds
    count       INTEGER NOT NULL,
    hash        BLOB    NOT NULL,
    PRIMARY KEY (tenant, stream, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX accesses_time ON accesses (tenant, time, stream, seq);

-- How far each chain of the audit has come; stream '' is the chain of checkpoints.
CREATE TABLE audit_streams (
    tenant TEXT    NOT NULL,
    stream TEXT    NOT NULL,
    seq    INTEGER NOT NULL,
    hash   BLOB    NOT NULL,
    PRIMARY KEY (tenant, stream)
) STRICT, WITHOUT ROWID;

CREATE TABLE audit_checkpoints (
    tenant    TEXT    NOT NULL,
    number    INTEGER NOT NULL,
    body      BLOB    NOT NULL,
    key_id    TEXT    NOT NULL,
    signature BLOB    NOT NULL,
    PRIMARY KEY (tenant, number)
) STRICT, WITHOUT ROWID;
