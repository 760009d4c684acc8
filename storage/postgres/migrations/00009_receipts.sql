-- What was erased: receipts outlive the journals of those who wrote them.

-- +goose Up

CREATE TABLE receipts (
    tenant  text        COLLATE "C" NOT NULL,
    name    text        COLLATE "C" NOT NULL,
    kb      text        COLLATE "C" NOT NULL,
    cluster boolean     NOT NULL, -- kept for operators
    time    timestamptz NOT NULL,
    body    bytea       NOT NULL,
    PRIMARY KEY (tenant, name)
);
CREATE INDEX receipts_order ON receipts (time, tenant, name) WHERE cluster;
CREATE INDEX receipts_tenant ON receipts (tenant, cluster, time, name);
