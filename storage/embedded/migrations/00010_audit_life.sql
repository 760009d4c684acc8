-- A name can be had by several tenants, one after the other.

-- +goose Up

-- Events up to there were of a former tenant of the name. Of those that came before this
-- column all that is erased of a tenant that was erased itself is taken for a former one's.
ALTER TABLE owner ADD COLUMN former INTEGER NOT NULL DEFAULT 0;
UPDATE owner SET former = erased
WHERE EXISTS (SELECT 1 FROM owner t WHERE t.tenant = owner.tenant AND t.kind = 'tenant' AND t.erased > 0);
