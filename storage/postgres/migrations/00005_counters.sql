-- Numbers that grains keep beside their events.

-- +goose Up

-- A counter is written over and over: free room on its page keeps the next version of the
-- row there, so that no index has to change.
CREATE TABLE counters (
    tenant text   COLLATE "C" NOT NULL,
    kind   text   COLLATE "C" NOT NULL,
    id     text   COLLATE "C" NOT NULL,
    name   text   COLLATE "C" NOT NULL,
    epoch  bigint NOT NULL,
    value  bigint NOT NULL,
    PRIMARY KEY (tenant, kind, id, name)
) WITH (fillfactor = 50);
