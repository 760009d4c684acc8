-- Row-level security: a second wall between tenants, behind the WHERE of every
-- statement.
--
-- What nodes do they do as one of two roles, neither of which owns a table:
--
--   tenant role   the rows of the tenant named by granary.tenant, and none when none is
--   system role   the rows of all tenants, for what concerns more than one
--
-- The roles are made, and given to the login, before this runs (roles.go), as what a
-- server allows differs. granary_isolate_v1 is called with them after the migrations,
-- at every start at which a table lacks something, so that a table of a later
-- migration needs no line here. A table it has not seen yet nobody but the owner
-- can read.
--
-- The login is a member of both. So nodes of the version before, which work as the
-- login itself, go on during a rolling upgrade: they see all rows, as they did.

-- +goose Up

-- '' is no tenant: it is what a setting leaves behind when its transaction has ended.
-- +goose StatementBegin
CREATE FUNCTION granary_isolate_v1(tenant_role name, system_role name) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    t record;
    p record;
BEGIN
    PERFORM pg_advisory_xact_lock(1735549294, 3);
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I, %I', current_schema(), tenant_role, system_role);
    EXECUTE format('GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA %I TO %I, %I', current_schema(), tenant_role, system_role);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %I TO %I', current_schema(), system_role);
    -- Who takes a grain over has to read who may.
    EXECUTE format('GRANT SELECT ON cluster_view, node_lease TO %I', tenant_role);
    FOR t IN SELECT c.oid::regclass AS name, c.oid, c.relrowsecurity AS enabled, c.relforcerowsecurity AS forced
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant' AND NOT a.attisdropped
        WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p')
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO %I', t.name, tenant_role);
        FOR p IN SELECT * FROM (VALUES
            ('granary_tenant', tenant_role, 'tenant = nullif(current_setting(''granary.tenant'', true), '''')'),
            ('granary_system', system_role, 'true')) AS v (policy, role, rows)
        LOOP
            IF NOT EXISTS (SELECT 1 FROM pg_policy WHERE polrelid = t.oid AND polname = p.policy AND polroles = ARRAY[p.role::regrole::oid]) THEN
                EXECUTE format('DROP POLICY IF EXISTS %I ON %s', p.policy, t.name);
                EXECUTE format('CREATE POLICY %I ON %s FOR ALL TO %I USING (%s) WITH CHECK (%s)', p.policy, t.name, p.role, p.rows, p.rows);
            END IF;
        END LOOP;
        IF NOT (t.enabled AND t.forced) THEN
            EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', t.name);
        END IF;
    END LOOP;
END
$$;
-- +goose StatementEnd
