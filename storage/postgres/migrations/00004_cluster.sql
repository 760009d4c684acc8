-- The nodes of a cluster: their leases, the view they share, and who may take a
-- grain over under it.
--
-- The functions carry a version in their names: what is here is called by the
-- nodes of this version for as long as they run beside later ones.
--
-- One advisory lock guards the view: who changes it has the lock alone until the
-- commit, who depends on it shares the lock. It does what FOR UPDATE and FOR
-- SHARE of the row would, but waits in turn (a stream of sharers never starves a
-- change), writes nothing, and does not slow down when a fail-over makes
-- thousands of acquisitions share it at once. Holders never wait for anything a
-- client does, nor for an owner row: else a stopped client could hold up renewals.

-- +goose Up

CREATE TABLE node_lease (
    node    text        COLLATE "C" NOT NULL PRIMARY KEY, -- name#boot
    addr    text        NOT NULL,
    final   text        NOT NULL DEFAULT '', -- 'dead' or 'left': this boot renews no more
    expires timestamptz NOT NULL,
    seen    bigint      NOT NULL, -- version of the view it acts on
    pending bigint      NOT NULL  -- grains it still holds though that view places them elsewhere
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05); -- rewritten twice a second, in place

CREATE TABLE cluster_view (
    one          boolean     NOT NULL PRIMARY KEY DEFAULT true CHECK (one),
    version      bigint      NOT NULL,
    active       text[]      COLLATE "C" NOT NULL, -- name#boot of the members that may own something, by name
    body         jsonb       NOT NULL, -- members, overrides, round
    fingerprint  text        NOT NULL,
    committed_at timestamptz NOT NULL
);

CREATE TABLE cluster_secret (
    name  text  COLLATE "C" NOT NULL PRIMARY KEY,
    value bytea NOT NULL
);

ALTER TABLE owner ADD COLUMN view bigint NOT NULL DEFAULT 0; -- version under which it was acquired

-- +goose StatementBegin
CREATE FUNCTION granary_view_lock_v1(alone boolean) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF alone THEN
        PERFORM pg_advisory_xact_lock(1735549294, 1);
    ELSE
        PERFORM pg_advisory_xact_lock_shared(1735549294, 1);
    END IF;
END
$$;
-- +goose StatementEnd

-- granary_renew_v1 makes or extends a lease and surveys those of the members.
-- The order is what makes leased reads safe: the view is read when no change of
-- it is under way or can begin, and the clock after that, so that a lease never
-- outlasts by more than its time a view that its node was not told of. body is
-- NULL when the view is the one the caller knows.
-- +goose StatementBegin
CREATE FUNCTION granary_renew_v1(me text, my_addr text, my_seen bigint, my_pending bigint, ttl interval,
    known_version bigint, known_commit timestamptz,
    OUT version bigint, OUT body jsonb, OUT fingerprint text, OUT committed_at timestamptz, OUT now_at timestamptz,
    OUT expired text[], OUT settled boolean, OUT next_expiry timestamptz)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v cluster_view;
BEGIN
    PERFORM granary_view_lock_v1(false);
    SELECT * INTO v FROM cluster_view;
    now_at := clock_timestamp();
    INSERT INTO node_lease AS l (node, addr, expires, seen, pending)
    VALUES (me, my_addr, now_at + ttl, my_seen, my_pending)
    ON CONFLICT (node) DO UPDATE SET
        addr = excluded.addr, expires = excluded.expires, seen = excluded.seen, pending = excluded.pending
    WHERE l.final = '';
    IF NOT FOUND THEN
        PERFORM granary_refuse('GR004');
    END IF;
    SELECT coalesce(array_agg(a.node ORDER BY a.n) FILTER (WHERE coalesce(l.expires <= now_at, true)), '{}'),
        coalesce(bool_and(coalesce(l.expires > now_at AND l.seen >= v.version AND l.pending = 0, false)), true),
        min(l.expires) FILTER (WHERE l.expires > now_at)
    INTO expired, settled, next_expiry
    FROM unnest(v.active) WITH ORDINALITY AS a (node, n) LEFT JOIN node_lease l ON l.node = a.node;
    version := coalesce(v.version, 0);
    fingerprint := v.fingerprint;
    committed_at := v.committed_at;
    IF version <> known_version OR committed_at IS DISTINCT FROM known_commit THEN
        body := v.body;
    END IF;
END
$$;
-- +goose StatementEnd

-- granary_swap_v1 commits the next view and gives the time it is committed at.
-- Members it calls dead must have let their leases expire; they and those that
-- left never renew again.
-- +goose StatementBegin
CREATE FUNCTION granary_swap_v1(by_node text, next_version bigint, next_active text[], next_dead text[], next_left text[],
    next_body jsonb, next_fingerprint text) RETURNS timestamptz LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v cluster_view;
    at timestamptz;
BEGIN
    PERFORM granary_view_lock_v1(true);
    SELECT * INTO v FROM cluster_view;
    at := clock_timestamp();
    IF next_version <> coalesce(v.version, 0) + 1 THEN
        PERFORM granary_refuse('GR005');
    END IF;
    PERFORM 1 FROM node_lease WHERE node = by_node AND final = '' AND expires > at;
    IF NOT FOUND THEN
        PERFORM granary_refuse('GR006');
    END IF;
    PERFORM 1 FROM node_lease WHERE node = ANY (next_dead) AND node = ANY (v.active) AND expires > at;
    IF FOUND THEN
        PERFORM granary_refuse('GR007');
    END IF;
    INSERT INTO node_lease AS l (node, addr, final, expires, seen, pending)
    SELECT g.node, '', g.final, at, 0, 0 FROM (
        SELECT unnest(next_dead), 'dead' UNION ALL SELECT unnest(next_left), 'left') AS g (node, final)
    WHERE g.node = ANY (v.active)
    ON CONFLICT (node) DO UPDATE SET final = excluded.final;
    INSERT INTO cluster_view (version, active, body, fingerprint, committed_at)
    VALUES (next_version, next_active, next_body, next_fingerprint, at)
    ON CONFLICT (one) DO UPDATE SET
        version = excluded.version, active = excluded.active, body = excluded.body,
        fingerprint = excluded.fingerprint, committed_at = excluded.committed_at;
    RETURN at;
END
$$;
-- +goose StatementEnd

-- granary_acquire_v1 takes a grain over for a node that the view of version
-- my_view places it on. The owner row comes first: to get it may take as long as
-- a write of the last owner. From the lock of the view on, no view can be
-- committed until the row is. The last owner may still answer reads unless it
-- released the grain, is the same node, is no active member any more, or says
-- that it acts on one of the views that place the grain here and has nothing left
-- to hand over; else the wait ends one ttl after the first of these views.
-- +goose StatementBegin
CREATE FUNCTION granary_acquire_v1(of_tenant text, of_kind text, of_id text, new_activation text, me text,
    my_view bigint, my_since bigint, my_since_time timestamptz, ttl interval,
    OUT placed boolean, OUT new_epoch bigint, OUT at_head bigint, OUT holder text, OUT wait interval)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    o owner;
    v cluster_view;
    made boolean;
    at timestamptz;
BEGIN
    INSERT INTO owner (tenant, kind, id, epoch, activation, node, head, released, since)
    VALUES (of_tenant, of_kind, of_id, 0, '', '', 0, true, clock_timestamp())
    ON CONFLICT (tenant, kind, id) DO NOTHING;
    made := FOUND;
    SELECT * INTO o FROM owner
    WHERE tenant = of_tenant AND kind = of_kind AND id = of_id FOR NO KEY UPDATE; -- as UPDATE does
    PERFORM granary_view_lock_v1(false);
    SELECT * INTO v FROM cluster_view;
    at := clock_timestamp();
    placed := coalesce(v.version = my_view AND me = ANY (v.active), false);
    IF NOT placed THEN
        IF made THEN
            PERFORM granary_refuse('GR008'); -- and take the row back
        END IF;
        RETURN;
    END IF;
    IF my_since IS NULL OR my_since_time IS NULL OR my_since < 1 OR my_since > v.version THEN
        my_since := v.version;
        my_since_time := v.committed_at;
    END IF;
    IF o.released OR o.node = me OR o.node <> ALL (v.active)
        OR EXISTS (SELECT 1 FROM node_lease l WHERE l.node = o.node AND l.seen >= my_since AND l.pending = 0)
        OR my_since_time + ttl <= at
    THEN
        UPDATE owner SET epoch = epoch + 1, activation = new_activation, node = me, view = v.version, since = at, released = false
        WHERE tenant = of_tenant AND kind = of_kind AND id = of_id
        RETURNING epoch, head INTO new_epoch, at_head;
    ELSE
        holder := o.node;
        wait := my_since_time + ttl - at;
    END IF;
END
$$;
-- +goose StatementEnd
