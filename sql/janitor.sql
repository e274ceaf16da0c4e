-- The outbox is a ring of list partitions, one per hour modulo 8. Pruning empties those whose turn is long past.

-- name: clock
SELECT extract(epoch FROM clock_timestamp())::float8

-- name: leaf_has_pages
-- Not rows: those of transactions that were rolled back take space too.
SELECT pg_relation_size({leaf}) > 0

-- name: truncate_leaf
-- A transaction that still holds the leaf is not waited for: the leaf is emptied another time.
TRUNCATE {leaf}

-- name: leaf_sizes
SELECT c.relname AS name, greatest(c.reltuples, 0)::bigint AS rows, pg_relation_size(c.oid) AS bytes
FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = to_regclass(%(outbox)s)
ORDER BY c.relname
