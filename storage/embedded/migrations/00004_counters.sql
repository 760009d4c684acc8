-- Numbers that grains keep beside their events.

-- +goose Up

CREATE TABLE counters (
    tenant TEXT    NOT NULL,
    kind   TEXT    NOT NULL,
    id     TEXT    NOT NULL,
    name   TEXT    NOT NULL,
    epoch  INTEGER NOT NULL,
    value  INTEGER NOT NULL,
    PRIMARY KEY (tenant, kind, id, name)
) STRICT, WITHOUT ROWID;
