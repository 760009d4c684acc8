-- A name can be had by several tenants, one after the other.

-- +goose Up

-- Events up to there were of a former tenant of the name. Of those that came before this
-- column all that is erased of a tenant that was erased itself is taken for a former one's.
ALTER TABLE owner ADD COLUMN former bigint NOT NULL DEFAULT 0;

-- It concerns all tenants: for this statement the owner of the table is not held back.
ALTER TABLE owner NO FORCE ROW LEVEL SECURITY;
UPDATE owner SET former = erased
WHERE EXISTS (SELECT 1 FROM owner t WHERE t.tenant = owner.tenant AND t.kind = 'tenant' AND t.erased > 0);
ALTER TABLE owner FORCE ROW LEVEL SECURITY;
