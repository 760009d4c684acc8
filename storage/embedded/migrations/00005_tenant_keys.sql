-- Tenants' keys, wrapped under the master key, and what sealed blobs need beside
-- their bytes.

-- +goose Up

CREATE TABLE tenant_keys (
    tenant  TEXT    NOT NULL PRIMARY KEY, -- or '#…': the store's own
    version INTEGER NOT NULL,
    wrapped BLOB    NOT NULL, -- empty: destroyed
    master  TEXT    NOT NULL,
    key_id  TEXT    NOT NULL,
    created INTEGER NOT NULL,
    rotated INTEGER NOT NULL,
    mark    INTEGER NOT NULL DEFAULT 0 -- order of changes; 0: written once
) STRICT;
CREATE INDEX tenant_keys_mark ON tenant_keys (mark) WHERE mark > 0;

ALTER TABLE blobs ADD COLUMN note BLOB; -- NULL: the bytes are the blob's own
