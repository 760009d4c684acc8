-- Work that was given up.

-- +goose Up

CREATE TABLE dead_letters (
    tenant TEXT    NOT NULL,
    kind   TEXT    NOT NULL,
    id     TEXT    NOT NULL,
    key    TEXT    NOT NULL,
    name   TEXT    NOT NULL,
    reason TEXT    NOT NULL,
    since  INTEGER NOT NULL,
    PRIMARY KEY (tenant, kind, id, key)
) STRICT, WITHOUT ROWID;
