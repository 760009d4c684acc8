-- What was erased: receipts outlive the journals of those who wrote them.

-- +goose Up

CREATE TABLE receipts (
    tenant  TEXT    NOT NULL,
    name    TEXT    NOT NULL,
    kb      TEXT    NOT NULL,
    cluster INTEGER NOT NULL, -- 1: kept for operators
    time    INTEGER NOT NULL,
    body    BLOB    NOT NULL,
    PRIMARY KEY (tenant, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX receipts_order ON receipts (cluster, time, tenant, name);
CREATE INDEX receipts_tenant ON receipts (tenant, cluster, time, name);
