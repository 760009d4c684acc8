-- Fences for bulk writes, and work that was given up.

-- +goose Up

-- granary_guard_v1 lets a writer of chunks and vectors in: it takes the lock of
-- their scope and looks at the fence in a statement of its own after that, which
-- sees every takeover that was committed while it waited. The owner row is not
-- locked: appends of the grain go on, and a takeover waits for nobody.
-- +goose StatementBegin
CREATE FUNCTION granary_guard_v1(scope bigint, alone boolean, of_tenant text, of_kind text, of_id text,
    of_epoch bigint, of_activation text) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF alone THEN
        PERFORM pg_advisory_xact_lock(scope);
    ELSE
        PERFORM pg_advisory_xact_lock_shared(scope);
    END IF;
    PERFORM 1 FROM owner
    WHERE tenant = of_tenant AND kind = of_kind AND id = of_id
      AND epoch = of_epoch AND activation = of_activation AND NOT released;
    RETURN FOUND OR granary_refuse('GR003');
END
$$;
-- +goose StatementEnd

CREATE TABLE dead_letters (
    tenant text        COLLATE "C" NOT NULL,
    kind   text        COLLATE "C" NOT NULL,
    id     text        COLLATE "C" NOT NULL,
    key    text        COLLATE "C" NOT NULL,
    name   text        NOT NULL,
    reason text        NOT NULL,
    since  timestamptz NOT NULL,
    PRIMARY KEY (tenant, kind, id, key)
);
