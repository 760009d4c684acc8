-- Tenants' keys, wrapped under the master key, and what sealed blobs need beside
-- their bytes.

-- +goose Up

CREATE TABLE tenant_keys (
    tenant  text        COLLATE "C" NOT NULL PRIMARY KEY, -- or '#…': the store's own
    version bigint      NOT NULL,
    wrapped bytea       NOT NULL, -- empty: destroyed
    master  text        NOT NULL,
    key_id  text        NOT NULL,
    created timestamptz NOT NULL,
    rotated timestamptz NOT NULL,
    mark    bigint      NOT NULL DEFAULT 0 -- order of changes; 0: written once
);
CREATE INDEX tenant_keys_mark ON tenant_keys (mark) WHERE mark > 0;

ALTER TABLE blobs ADD COLUMN note bytea; -- NULL: the bytes are the blob's own

-- What is encrypted does not compress.
ALTER TABLE events ALTER COLUMN data SET STORAGE EXTERNAL;
ALTER TABLE idempotency ALTER COLUMN response SET STORAGE EXTERNAL;
ALTER TABLE chunks ALTER COLUMN text SET STORAGE EXTERNAL;
