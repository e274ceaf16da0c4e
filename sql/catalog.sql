-- What is installed, as PostgreSQL's catalog has it. Ours is what carries our COMMENT.

-- name: base
SELECT obj_description(n.oid, 'pg_namespace') AS comment,
    to_regclass(%(outbox)s) IS NOT NULL AND to_regclass(%(counters)s) IS NOT NULL AS is_complete,
    EXISTS (SELECT FROM pg_class AS c WHERE c.relnamespace = n.oid) AS has_relations
FROM pg_namespace AS n WHERE n.nspname = %(schema)s

-- name: publication
SELECT obj_description(p.oid, 'pg_publication') AS comment,
    p.pubinsert AND NOT (p.pubupdate OR p.pubdelete OR p.pubtruncate OR p.puballtables) AND p.pubviaroot
        AND (SELECT array_agg(r.prrelid::regclass::oid) FROM pg_publication_rel AS r WHERE r.prpubid = p.oid)
            = ARRAY[to_regclass(%(outbox)s)::oid] AS is_ours
FROM pg_publication AS p WHERE p.pubname = %(publication)s

-- name: functions
-- The first 16 digits of the hash of what it does, as its COMMENT had it when it was installed.
SELECT p.proname AS name, obj_description(p.oid, 'pg_proc') AS comment,
    left(encode(sha256(convert_to(p.prosrc, 'UTF8')), 'hex'), 16) AS source
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE n.nspname = %(schema)s AND obj_description(p.oid, 'pg_proc') LIKE 'cdc-counter %%'
ORDER BY p.proname

-- name: views
SELECT c.relname AS name, obj_description(c.oid, 'pg_class') AS comment
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relkind = 'v' AND obj_description(c.oid, 'pg_class') LIKE 'cdc-counter %%'
ORDER BY c.relname

-- name: triggers
-- Statement triggers capture, row triggers (bit 0 of tgtype) and their clones guard a MERGE into partitions.
SELECT t.tgrelid AS relation, rn.nspname AS schema, r.relname AS table, t.tgname AS name,
    t.tgenabled::text AS enabled, p.proname AS function
FROM pg_trigger AS t
JOIN pg_proc AS p ON p.oid = t.tgfoid
JOIN pg_namespace AS pn ON pn.oid = p.pronamespace
JOIN pg_class AS r ON r.oid = t.tgrelid
JOIN pg_namespace AS rn ON rn.oid = r.relnamespace
WHERE pn.nspname = %(schema)s AND NOT t.tgisinternal AND (t.tgtype & 1 = 1) = %(row_triggers)s
ORDER BY rn.nspname, r.relname, t.tgname

-- name: counters
SELECT id, name, relation, scale, scoped, definition FROM {counters} WHERE retired_at IS NULL ORDER BY id

-- name: next_id
-- Retired rows stay, so that an id is never used twice.
SELECT coalesce(max(id), 0) + 1 FROM {counters}

-- name: counted_relations
-- Every relation of a counted table: itself and its partitions.
SELECT c.oid, n.nspname AS schema, c.relname AS table, root.oid AS root, root.relispartition AS root_is_partition,
    root.relkind = 'p' AS root_is_partitioned
FROM (SELECT DISTINCT relation FROM {counters} WHERE retired_at IS NULL) AS k
JOIN pg_class AS root ON root.oid = k.relation
CROSS JOIN LATERAL (
    SELECT root.oid AS relid UNION SELECT p.relid FROM pg_partition_tree(root.oid::regclass) AS p
) AS t
JOIN pg_class AS c ON c.oid = t.relid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
ORDER BY n.nspname, c.relname

-- name: outbox
-- Whose functions can't reach the outbox, and how many of its partitions are in their place.
SELECT to_regclass(%(outbox)s) IS NOT NULL AS there,
    (SELECT count(*) FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE i.inhparent = to_regclass(%(outbox)s) AND n.nspname = %(schema)s AND c.relname = ANY(%(leaves)s)) AS leaves,
    (SELECT array_agg(DISTINCT p.proowner::regrole::text) FROM pg_proc AS p
        JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE n.nspname = %(schema)s AND obj_description(p.oid, 'pg_proc') LIKE 'cdc-counter %%'
            AND NOT (has_table_privilege(p.proowner, to_regclass(%(outbox)s), 'INSERT')
                AND has_schema_privilege(p.proowner, n.oid, 'USAGE'))) AS barred
