-- What was in the migrations that ran: one row for each there is in schema_version. Those
-- that ran before there was this table are noted as the first process after it has them.

-- +goose Up

CREATE TABLE schema_sums (
    version INTEGER NOT NULL PRIMARY KEY,
    name    TEXT    NOT NULL,
    sum     TEXT    NOT NULL -- SHA-256 of the file, in hex
) STRICT;
