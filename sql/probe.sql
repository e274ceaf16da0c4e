-- What a counter's declaration means on its table: asked in one transaction that is rolled back.

-- name: relation_facts
SELECT c.oid, n.nspname, c.relname, c.relkind::text AS relkind, c.relpersistence::text AS relpersistence,
    c.relispartition, row_security_active(c.oid) AS hides_rows,
    pg_encoding_to_char((SELECT d.encoding FROM pg_database AS d WHERE d.datname = current_database())) AS encoding,
    c.relnamespace = pg_my_temp_schema() OR n.nspname LIKE 'pg\_temp\_%%' AS is_temporary,
    EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhrelid = c.oid) AS has_parent,
    EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhparent = c.oid) AS has_children
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass(%(table)s)

-- name: relation_tree
-- The relation and, when it is partitioned, everything below it.
SELECT c.oid, n.nspname, c.relname, c.relkind::text AS relkind, c.relpersistence::text AS relpersistence,
    EXISTS (SELECT FROM pg_subscription_rel AS s WHERE s.srrelid = c.oid) AS is_subscribed,
    ARRAY(
        SELECT a.attname::text FROM pg_partitioned_table AS p
        JOIN pg_attribute AS a ON a.attrelid = p.partrelid AND a.attnum = ANY(p.partattrs::int2[])
        WHERE p.partrelid = c.oid ORDER BY a.attnum
    ) AS key_columns,
    EXISTS (
        SELECT FROM pg_partitioned_table AS p WHERE p.partrelid = c.oid AND p.partexprs IS NOT NULL
    ) AS has_key_expression
FROM (SELECT %(oid)s::oid AS relid UNION SELECT relid FROM pg_partition_tree(%(oid)s::oid::regclass)) AS t
JOIN pg_class AS c ON c.oid = t.relid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
ORDER BY c.oid <> %(oid)s, n.nspname, c.relname

-- name: similar_relations
SELECT c.relname FROM pg_class AS c WHERE c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid)
UNION
SELECT n.nspname || '.' || c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema')

-- name: stored_query
SELECT r.ev_action::text FROM pg_rewrite AS r WHERE r.ev_class = %(view)s::regclass

-- name: view_columns
-- Domains are followed to their base type; a typmod may be declared on the way.
WITH RECURSIVE column_type (attnum, attname, typid, typmod, collation_id) AS (
    SELECT a.attnum, a.attname, a.atttypid, a.atttypmod, a.attcollation
    FROM pg_attribute AS a WHERE a.attrelid = %(view)s::regclass AND a.attnum > 0
    UNION ALL
    SELECT c.attnum, c.attname, t.typbasetype, CASE WHEN c.typmod = -1 THEN t.typtypmod ELSE c.typmod END, c.collation_id
    FROM column_type AS c JOIN pg_type AS t ON t.oid = c.typid AND t.typtype = 'd'
)
SELECT c.attname, t.typname, t.typnamespace = 'pg_catalog'::regnamespace AS is_builtin, t.typtype = 'e' AS is_enum,
    coalesce(l.collisdeterministic, true) AS is_deterministic, c.typmod
FROM column_type AS c
JOIN pg_type AS t ON t.oid = c.typid AND t.typtype <> 'd'
LEFT JOIN pg_collation AS l ON l.oid = c.collation_id
ORDER BY c.attnum

-- name: functions
SELECT p.oid, p.oid::regprocedure::text AS name, p.provolatile::text AS volatility, p.proretset AS returns_set
FROM pg_proc AS p
WHERE p.oid = ANY(%(functions)s::oid[])
    OR p.oid IN (SELECT o.oprcode FROM pg_operator AS o WHERE o.oid = ANY(%(operators)s::oid[]))
    -- The label of an enum's value is as good as immutable: only ALTER TYPE ... RENAME VALUE changes it.
    OR p.oid IN (SELECT t.typoutput FROM pg_type AS t WHERE t.oid = ANY(%(written_types)s::oid[]) AND t.typtype <> 'e')
    OR p.oid IN (SELECT t.typinput FROM pg_type AS t WHERE t.oid = ANY(%(read_types)s::oid[]))

-- name: used_columns
-- The probe's columns by name, for the table may have dropped columns in between.
SELECT p.attname, r.attgenerated::text AS attgenerated
FROM pg_attribute AS p
JOIN pg_attribute AS r ON r.attrelid = %(relation)s::oid AND r.attname = p.attname AND NOT r.attisdropped
WHERE p.attrelid = %(probe)s::regclass AND p.attnum = ANY(%(numbers)s::int2[])

-- name: column_names
SELECT attname::text FROM pg_attribute WHERE attrelid = %(probe)s::regclass AND attnum = ANY(%(numbers)s::int2[])
ORDER BY attnum

-- name: deparse
SELECT pg_get_viewdef(%(view)s::regclass)
