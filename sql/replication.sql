-- Statements of the connection that streams, of its side connection and of the slot's life.

-- name: database
-- Which database this is, for the comparison with the stored epoch, whether it is a standby's, and the identifier that
-- a transaction could be given next: those in the stream have only 32 of its 64 bits.
SELECT oid::bigint AS oid, datname AS name, pg_is_in_recovery() AS in_recovery,
       pg_snapshot_xmax(pg_current_snapshot())::text AS next_xid
  FROM pg_database WHERE datname = current_database();

-- name: slot
-- The slot's row as JSON, for the columns differ from version to version, and what it makes the server keep.
SELECT to_jsonb(s) || jsonb_build_object(
           'retained', CASE WHEN NOT pg_is_in_recovery()
                            THEN pg_wal_lsn_diff(pg_current_wal_flush_lsn(), restart_lsn)::bigint END,
           'inactive_seconds', extract(epoch FROM now() - (to_jsonb(s) ->> 'inactive_since')::timestamptz)) AS slot
  FROM pg_replication_slots AS s WHERE slot_name = %(slot)s;

-- name: publication_mark
-- A mark that no alteration of the publication, and of the outbox in it, leaves as it was; a part of both blocks that
-- have it in braces. Where there is no outbox of that name it tells nothing.
SELECT concat_ws(':', p.oid, p.xmin, r.oid, r.xmin, r.prrelid)
  FROM pg_publication AS p
  LEFT JOIN pg_publication_rel AS r ON r.prpubid = p.oid AND r.prrelid = to_regclass(%(outbox)s)
 WHERE p.pubname = %(publication)s

-- name: publication
-- What the publication sends, in which shape it sends the outbox, and its mark.
SELECT ({publication_mark}) AS mark, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot, p.puballtables,
       to_regclass(%(outbox)s) IS NOT NULL AS outbox_exists,
       r.prrelid IS NOT NULL AS has_outbox,
       r.prqual IS NOT NULL OR r.prattrs IS NOT NULL AS filtered,
       (SELECT count(*) FROM pg_publication_rel AS other
         WHERE other.prpubid = p.oid AND other.prrelid IS DISTINCT FROM r.prrelid)
       + (SELECT count(*) FROM pg_publication_namespace AS whole WHERE whole.pnpubid = p.oid) AS others
  FROM pg_publication AS p
  LEFT JOIN pg_publication_rel AS r
    ON r.prpubid = p.oid AND r.prrelid = to_regclass(%(outbox)s)
 WHERE p.pubname = %(publication)s;

-- name: claim_slot
-- Held by the session until it ends: whoever replaces a slot is alone with it. It needs no xid, so no slot waits for it.
SELECT pg_try_advisory_lock(hashtext('cdc-counter slot'), hashtext(%(slot)s)) AS claimed;

-- name: create_slot
-- Waits for every running transaction of the cluster; statement_timeout does not apply to it, lock_timeout does.
SELECT lsn::text AS lsn FROM pg_create_logical_replication_slot(%(slot)s, 'pgoutput');

-- name: create_failover_slot
-- The same on PostgreSQL 17 and later, with a slot that standbys can take over.
SELECT lsn::text AS lsn
  FROM pg_create_logical_replication_slot(%(slot)s, 'pgoutput', failover => true);

-- name: standbys_sync_slots
-- Whether this server expects standbys to keep up with failover slots (PostgreSQL 17 and later).
SELECT coalesce(current_setting('synchronized_standby_slots', true), '') <> '' AS expected;

-- name: drop_slot
SELECT pg_drop_replication_slot(%(slot)s);

-- name: observe
-- One look a second from the side connection: what every new snapshot sees, where the WAL ends, how our slot stands. A
-- slot of that name in another database, or of another plugin, is none of ours.
SELECT pg_current_snapshot()::text AS snapshot,
       pg_current_wal_flush_lsn()::text AS flush_lsn,
       pg_wal_lsn_diff(pg_current_wal_flush_lsn(), s.restart_lsn)::bigint AS retained_wal,
       s.wal_status,
       s.confirmed_flush_lsn::text AS confirmed,
       coalesce(s.active, false) AS active,
       coalesce(extract(epoch FROM now() - (to_jsonb(s) ->> 'inactive_since')::timestamptz), 0)::float8 AS inactive_seconds,
       to_regclass(%(outbox)s) IS NOT NULL AS outbox_exists,
       ({publication_mark}) AS publication_mark
  FROM (VALUES (true)) AS once
  LEFT JOIN pg_replication_slots AS s
    ON s.slot_name = %(slot)s AND s.database = current_database() AND s.plugin = 'pgoutput';

-- name: confirmed_flush
SELECT confirmed_flush_lsn::text AS lsn FROM pg_replication_slots WHERE slot_name = %(slot)s;

-- name: counted_table
SELECT n.nspname, c.relname,
       (SELECT coalesce(sum(greatest(leaf.reltuples, 0)), 0)::bigint
          FROM pg_class AS leaf
         WHERE leaf.relkind = 'r'
           AND (leaf.oid = c.oid OR leaf.oid IN (SELECT relid FROM pg_partition_tree(c.oid)))) AS estimated_rows,
       counted.id
  FROM {counters} AS counted
  JOIN pg_class AS c ON c.oid = counted.relation
  JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE counted.name = %s AND counted.retired_at IS NULL;

-- name: begin_recount
-- TRUNCATE and rewriting ALTERs are not MVCC-safe, so the counted tables are locked against them before the snapshot.
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;

-- name: snapshot
-- One statement, so that every commit the snapshot sees lies before the LSN.
SELECT pg_current_snapshot()::text AS snapshot, pg_current_wal_insert_lsn()::text AS lsn;

-- name: waiters
-- Who waits for a backend of ours.
SELECT a.pid FROM pg_stat_activity AS a WHERE a.wait_event_type = 'Lock' AND %(pid)s = ANY(pg_blocking_pids(a.pid));

-- name: ledger_of_key
-- Transaction numbers rise with their beginnings, so that the highest are the newest.
SELECT xid::text, sum(delta)::bigint AS delta
  FROM {ledger}
 WHERE counter = %(counter)s AND scope = %(scope)s AND bucket = %(bucket)s
 GROUP BY xid ORDER BY xid DESC LIMIT %(limit)s;
