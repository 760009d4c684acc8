-- Blobs, chunks and vectors: the bulk data that events speak of.

-- +goose Up

CREATE TABLE blobs (
    tenant     text        COLLATE "C" NOT NULL,
    id         text        COLLATE "C" NOT NULL, -- UUID of our own making
    ready      boolean     NOT NULL,             -- false: still being written
    deleted    boolean     NOT NULL DEFAULT false, -- nobody can open it any more
    size       bigint      NOT NULL,
    sha256     text        NOT NULL,
    parts      bigint      NOT NULL,
    created    timestamptz NOT NULL DEFAULT now(),
    read_until timestamptz NOT NULL DEFAULT '-infinity', -- an open reader may need the parts until then
    owner_kind text        COLLATE "C" NOT NULL DEFAULT '', -- '': unclaimed
    owner_id   text        COLLATE "C" NOT NULL DEFAULT '',
    PRIMARY KEY (tenant, id)
);
CREATE INDEX blobs_unclaimed ON blobs (created) WHERE owner_kind = '' AND NOT deleted;
CREATE INDEX blobs_deleted ON blobs (read_until) WHERE deleted;
CREATE INDEX blobs_claimed ON blobs (tenant, owner_kind, owner_id) WHERE owner_kind <> '';

CREATE TABLE blob_parts (
    tenant text   COLLATE "C" NOT NULL,
    id     text   COLLATE "C" NOT NULL,
    part   bigint NOT NULL,
    data   bytea  NOT NULL,
    PRIMARY KEY (tenant, id, part),
    FOREIGN KEY (tenant, id) REFERENCES blobs (tenant, id)
);
ALTER TABLE blob_parts ALTER COLUMN data SET STORAGE EXTERNAL; -- most sources are compressed files

CREATE TABLE attempts (
    tenant   text   COLLATE "C" NOT NULL,
    uid      text   COLLATE "C" NOT NULL,
    attempt  text   COLLATE "C" NOT NULL,
    document text   NOT NULL,
    version  bigint NOT NULL,
    PRIMARY KEY (tenant, uid, attempt)
);

-- text is bytea: what a parser found comes back as it was, NUL included, which
-- PostgreSQL's text cannot hold.
CREATE TABLE chunks (
    tenant   text     COLLATE "C" NOT NULL,
    uid      text     COLLATE "C" NOT NULL,
    attempt  text     COLLATE "C" NOT NULL,
    ordinal  bigint   NOT NULL,
    hash     text     COLLATE "C" NOT NULL,
    model    text     NOT NULL,
    start_at bigint   NOT NULL,
    end_at   bigint   NOT NULL,
    page     bigint   NOT NULL,
    kind     smallint NOT NULL,
    language text     NOT NULL,
    headings text     NOT NULL, -- JSON array, '' when none
    text     bytea    NOT NULL,
    PRIMARY KEY (tenant, uid, attempt, ordinal)
);
CREATE INDEX chunks_hash ON chunks (tenant, uid, hash);

CREATE TABLE vectors (
    tenant text     COLLATE "C" NOT NULL,
    uid    text     COLLATE "C" NOT NULL,
    hash   text     COLLATE "C" NOT NULL,
    model  text     COLLATE "C" NOT NULL,
    space  smallint NOT NULL,
    data   bytea    NOT NULL,
    PRIMARY KEY (tenant, uid, hash, model)
);
ALTER TABLE vectors ALTER COLUMN data SET STORAGE EXTERNAL; -- floats do not compress
