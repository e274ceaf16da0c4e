-- What the soak's writers need to know of tables that they have never seen. Ours (%(schema)s) are left out.

-- name: tables
SELECT c.oid, n.nspname, c.relname, c.relkind = 'p' AS partitioned
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
   AND n.nspname NOT IN ('pg_catalog', 'information_schema', %(schema)s) AND n.nspname NOT LIKE 'pg\_%%'
   AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend AS d
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY n.nspname, c.relname

-- name: columns
-- Of a domain the type below it; of an array its element's.
SELECT a.attrelid, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod),
       pg_catalog.format_type(b.type, CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END),
       e.typname, b.is_array, a.attnotnull OR t.typnotnull,
       a.atthasdef AND a.attgenerated = '' OR t.typdefault IS NOT NULL, a.attidentity, a.attgenerated <> '',
       ARRAY(SELECT l.enumlabel::text FROM pg_catalog.pg_enum AS l WHERE l.enumtypid = e.oid ORDER BY l.enumsortorder)
  FROM pg_catalog.pg_attribute AS a
  JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
 CROSS JOIN LATERAL (SELECT CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END) AS d (type)
  JOIN pg_catalog.pg_type AS u ON u.oid = d.type
 CROSS JOIN LATERAL (SELECT d.type, u.typcategory = 'A', CASE WHEN u.typcategory = 'A' THEN u.typelem ELSE u.oid END)
         AS b (type, is_array, element)
  JOIN pg_catalog.pg_type AS e ON e.oid = b.element
 WHERE a.attrelid = ANY (%(tables)s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attrelid, a.attnum

-- name: unique_keys
SELECT i.indrelid, ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute AS a
                          WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) ORDER BY a.attnum)
  FROM pg_catalog.pg_index AS i
 WHERE i.indrelid = ANY (%(tables)s::oid[]) AND i.indisunique AND i.indisvalid AND i.indimmediate
   AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnkeyatts = i.indnatts
 ORDER BY i.indrelid, i.indisprimary DESC, i.indexrelid

-- name: foreign_keys
SELECT k.conrelid, k.confrelid,
       ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS c (number, place)
               JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = c.number ORDER BY c.place),
       ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY AS c (number, place)
               JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.confrelid AND a.attnum = c.number ORDER BY c.place)
  FROM pg_catalog.pg_constraint AS k
 WHERE k.contype = 'f' AND k.conrelid = ANY (%(tables)s::oid[]) AND k.confrelid = ANY (%(tables)s)
 ORDER BY k.conrelid, k.oid

-- name: checks
-- A domain's constraints count for every column of it.
SELECT k.conrelid, pg_catalog.pg_get_constraintdef(k.oid),
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute AS a
              WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey))
  FROM pg_catalog.pg_constraint AS k
 WHERE k.contype = 'c' AND k.conrelid = ANY (%(tables)s::oid[])
UNION ALL
SELECT a.attrelid, pg_catalog.pg_get_constraintdef(k.oid), ARRAY[a.attname::text]
  FROM pg_catalog.pg_attribute AS a
  JOIN pg_catalog.pg_constraint AS k ON k.contypid = a.atttypid AND k.contype = 'c'
 WHERE a.attrelid = ANY (%(tables)s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY 1, 2

-- name: partitions
-- Every part of a partitioned table, with its bound and the columns that the bound is about.
SELECT r.oid, n.nspname, c.relname, p.isleaf, pg_catalog.pg_get_expr(c.relpartbound, c.oid),
       ARRAY(SELECT coalesce(a.attname::text, '') FROM unnest(k.partattrs::int2[]) WITH ORDINALITY AS i (number, place)
               LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.partrelid AND a.attnum = i.number
              ORDER BY i.place)
  FROM unnest(%(tables)s::oid[]) AS r (oid)
 CROSS JOIN LATERAL pg_catalog.pg_partition_tree(r.oid) AS p
  JOIN pg_catalog.pg_class AS c ON c.oid = p.relid
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_partitioned_table AS k ON k.partrelid = p.parentrelid
 ORDER BY r.oid, p.level, c.relname
