-- Facts that the readiness checks judge. Reads only, nothing is locked, no right beyond connecting is needed.

-- name: server
-- One row. Parameters: slot, schema.
SELECT
    current_setting('server_version_num')::int AS version_number,
    current_setting('server_version') AS version,
    pg_is_in_recovery() AS in_recovery,
    current_setting('transaction_read_only')::bool AS read_only,
    current_setting('wal_level') AS wal_level,
    current_setting('fsync')::bool AS fsync,
    current_setting('max_slot_wal_keep_size') AS max_slot_wal_keep_size,
    -- NULL before PostgreSQL 18
    current_setting('idle_replication_slot_timeout', true) AS idle_slot_timeout,
    -- NULL: not for this role to see
    CASE WHEN pg_has_role('pg_read_all_settings', 'USAGE')
         THEN current_setting('output_plugin_libraries', true) IS NOT NULL END AS plugins_listed,
    -- NULL before PostgreSQL 17
    current_setting('synchronized_standby_slots', true) AS synchronized_standby_slots,
    (SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()) AS encoding,
    current_database()::text AS database,
    current_user::text AS role,
    has_database_privilege(current_database(), 'CREATE') AS may_create,
    (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
    (SELECT rolname::text FROM pg_roles WHERE rolname = 'rds_replication') AS rds_role,
    current_setting('max_replication_slots')::int AS max_slots,
    (SELECT count(*)::int FROM pg_replication_slots) AS used_slots,
    (SELECT coalesce(array_agg(slot_name::text ORDER BY slot_name), '{}')
     FROM pg_replication_slots WHERE NOT active AND NOT temporary) AS inactive_slots,
    EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = %(slot)s) AS slot_exists,
    (SELECT coalesce(array_agg(slot_name::text ORDER BY slot_name), '{}')
     FROM pg_replication_slots WHERE slot_type = 'physical' AND NOT temporary) AS physical_slots,
    current_setting('max_wal_senders')::int AS max_senders,
    (SELECT count(*)::int FROM pg_stat_replication) AS used_senders,
    (SELECT pg_get_userbyid(nspowner)::text FROM pg_namespace
     WHERE nspname = %(schema)s AND NOT pg_has_role(nspowner, 'USAGE')) AS schema_owner,
    pg_backend_pid() AS backend_pid

-- name: foreign_tables
-- The counted tables, and their partitions, that the current role does not own or can't count. Parameter: names.
-- A role without BYPASSRLS would recount only the rows that FORCE ROW LEVEL SECURITY lets it see.
WITH counted AS (
    SELECT DISTINCT coalesce(tree.relid, root.oid) AS oid
    FROM unnest(%(names)s::text[]) AS declared (name)
    CROSS JOIN LATERAL (SELECT to_regclass(declared.name) AS oid) AS root
    LEFT JOIN LATERAL pg_partition_tree(root.oid) AS tree ON true
    WHERE root.oid IS NOT NULL
)
SELECT
    class.oid::regclass::text AS name,
    pg_get_userbyid(class.relowner)::text AS owner,
    pg_has_role(class.relowner, 'USAGE') AS owned,
    class.relforcerowsecurity AND NOT (role.rolsuper OR role.rolbypassrls) AS rows_hidden
FROM counted
JOIN pg_class AS class ON class.oid = counted.oid
JOIN pg_roles AS role ON role.rolname = current_user
WHERE NOT pg_has_role(class.relowner, 'USAGE')
   OR (class.relforcerowsecurity AND NOT (role.rolsuper OR role.rolbypassrls))
ORDER BY 1

-- name: open_transactions
-- Transactions with an xid, in any database, that have been open for a while. A new slot has to wait for each.
-- The state of other roles' sessions is visible to superusers and pg_read_all_stats only.
SELECT
    pid,
    NULL::text AS gid,
    datname::text AS database,
    usename::text AS role,
    state,
    extract(epoch FROM now() - xact_start)::float8 AS seconds
FROM pg_stat_activity
WHERE backend_xid IS NOT NULL
  AND pid <> pg_backend_pid()
  AND xact_start < now() - make_interval(secs => %(seconds)s)
UNION ALL
SELECT NULL, gid, database::text, owner::text, 'prepared', extract(epoch FROM now() - prepared)::float8
FROM pg_prepared_xacts
ORDER BY seconds DESC

-- name: role_may_replicate
-- Whether a role has the REPLICATION right, by attribute, as superuser or by Amazon's role. Parameter: role.
SELECT
    rolreplication
    OR rolsuper
    OR coalesce((SELECT pg_has_role(role.oid, amazon.oid, 'USAGE') FROM pg_roles AS amazon
                 WHERE amazon.rolname = 'rds_replication'), false)
FROM pg_roles AS role
WHERE rolname = %(role)s
