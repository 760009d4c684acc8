-- Blobs, chunks and vectors: the bulk data that events speak of.

-- +goose Up

CREATE TABLE blobs (
    tenant     TEXT    NOT NULL,
    id         TEXT    NOT NULL, -- UUID of our own making: also the file's name
    size       INTEGER NOT NULL,
    sha256     TEXT    NOT NULL,
    created    INTEGER NOT NULL,
    owner_kind TEXT    NOT NULL DEFAULT '', -- '': unclaimed
    owner_id   TEXT    NOT NULL DEFAULT '',
    data       BLOB,                        -- NULL: in a file
    PRIMARY KEY (tenant, id)
) STRICT;
CREATE INDEX blobs_unclaimed ON blobs (created) WHERE owner_kind = '';
CREATE INDEX blobs_claimed ON blobs (tenant, owner_kind, owner_id) WHERE owner_kind <> '';
CREATE UNIQUE INDEX blobs_file ON blobs (id) WHERE data IS NULL;

-- Which generation of an attempt's chunk rows readers see. pending names the
-- generation being written, or (negative) the deletion at work; 0 is neither.
CREATE TABLE attempts (
    tenant   TEXT    NOT NULL,
    uid      TEXT    NOT NULL,
    attempt  TEXT    NOT NULL,
    document TEXT    NOT NULL,
    version  INTEGER NOT NULL,
    gen      INTEGER NOT NULL,
    pending  INTEGER NOT NULL,
    PRIMARY KEY (tenant, uid, attempt)
) STRICT, WITHOUT ROWID;
CREATE INDEX attempts_pending ON attempts (pending) WHERE pending <> 0;

CREATE TABLE chunks (
    row      INTEGER PRIMARY KEY,
    tenant   TEXT    NOT NULL,
    uid      TEXT    NOT NULL,
    attempt  TEXT    NOT NULL,
    gen      INTEGER NOT NULL,
    ordinal  INTEGER NOT NULL,
    hash     TEXT    NOT NULL,
    model    TEXT    NOT NULL,
    start_at INTEGER NOT NULL,
    end_at   INTEGER NOT NULL,
    page     INTEGER NOT NULL,
    kind     INTEGER NOT NULL,
    language TEXT    NOT NULL,
    headings TEXT    NOT NULL, -- JSON array, '' when none
    text     TEXT    NOT NULL
) STRICT;
CREATE UNIQUE INDEX chunks_key ON chunks (tenant, uid, attempt, gen, ordinal);
CREATE INDEX chunks_hash ON chunks (tenant, uid, hash);

CREATE TABLE vectors (
    row    INTEGER PRIMARY KEY,
    tenant TEXT    NOT NULL,
    uid    TEXT    NOT NULL,
    hash   TEXT    NOT NULL,
    model  TEXT    NOT NULL,
    space  INTEGER NOT NULL,
    data   BLOB    NOT NULL
) STRICT;
CREATE UNIQUE INDEX vectors_key ON vectors (tenant, uid, hash, model);
