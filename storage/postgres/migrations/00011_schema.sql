-- Which migrations ran, and what was in them; and row-level security that holds for
-- the login, too.

-- +goose Up

-- One row for each migration there is in schema_version, noted by the node that ran it
-- or, for those that ran before there was this table, by the first one after it.
CREATE TABLE schema_sums (
    version bigint      NOT NULL PRIMARY KEY,
    name    text        NOT NULL,
    sum     text        NOT NULL, -- SHA-256 of the file, in hex
    noted   timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- granary_isolate_v2 is v1, but that a session must have become the system role to see
-- all tenants' rows: the login inherits what is granted to its roles, and policies of
-- roles hold for whom inherits them. A migration that reads or writes tenants' rows
-- must therefore say whose it is; the session of migrations has row_security off, so
-- that one that forgets fails instead of finding no rows.
-- +goose StatementBegin
CREATE FUNCTION granary_isolate_v2(tenant_role name, system_role name) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    t record;
BEGIN
    PERFORM granary_isolate_v1(tenant_role, system_role);
    PERFORM pg_advisory_xact_lock(1735549294, 3);
    FOR t IN SELECT polrelid::regclass AS name FROM pg_policy JOIN pg_class c ON c.oid = polrelid
        WHERE c.relnamespace = current_schema()::regnamespace AND polname = 'granary_system' AND pg_get_expr(polqual, polrelid) = 'true'
    LOOP
        EXECUTE format('ALTER POLICY granary_system ON %s TO %I USING (current_user = %L) WITH CHECK (current_user = %L)',
            t.name, system_role, system_role, system_role);
    END LOOP;
END
$$;
-- +goose StatementEnd
