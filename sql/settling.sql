-- Which transactions may have their commit record in the WAL and still count as running.

-- name: unsettled
-- The snapshot first, the activity after it: one statement takes its snapshot before it reads anything. Not between
-- commit record and end is a session that is idle in its transaction or waits for a heavyweight lock, and a prepared
-- transaction that no session commits. What the role may not see (it lacks pg_read_all_stats) counts as unsettled.
WITH running AS MATERIALIZED (
    SELECT xid::text::bigint AS xid, (xid::text::bigint % 4294967296)::text AS short
      FROM pg_snapshot_xip(pg_current_snapshot()) AS xid
), activity AS MATERIALIZED (
    SELECT backend_xid::text AS short,
           coalesce(state LIKE 'idle in transaction%' OR wait_event_type = 'Lock', false) AS is_waiting,
           query = '<insufficient privilege>' OR (
               state = 'active' AND (query ~* 'prepared' OR octet_length(query)
                   > pg_size_bytes(current_setting('track_activity_query_size')) - 5)) AS may_commit_prepared
      FROM pg_stat_activity
     WHERE pid <> pg_backend_pid()
)
SELECT running.xid
  FROM running
 WHERE NOT EXISTS (SELECT FROM activity WHERE activity.short = running.short AND is_waiting)
   AND (EXISTS (SELECT FROM activity WHERE may_commit_prepared)
        OR NOT EXISTS (SELECT FROM pg_prepared_xacts AS p WHERE p.transaction::text = running.short));
