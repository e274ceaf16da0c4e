-- Who holds what an installation waits for; asked from a second connection while the first one waits.

-- name: blockers
SELECT a.pid, coalesce(a.usename, '') AS user_name, coalesce(a.application_name, '') AS application,
    coalesce(a.state, a.backend_type, '') AS state,
    extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, a.backend_start))::float8 AS age,
    left(regexp_replace(coalesce(a.query, ''), '\s+', ' ', 'g'), 120) AS query
FROM pg_stat_activity AS a
WHERE a.pid = ANY(pg_blocking_pids(%(pid)s))
ORDER BY age DESC

-- name: prepared_blockers
-- A prepared transaction has no session; its locks are held under its xid.
SELECT p.gid, p.owner AS user_name, extract(epoch FROM clock_timestamp() - p.prepared)::float8 AS age
FROM pg_prepared_xacts AS p
JOIN pg_locks AS held ON held.virtualtransaction = '-1/' || p.transaction::text
JOIN pg_locks AS wanted ON wanted.pid = %(pid)s AND NOT wanted.granted AND wanted.relation = held.relation
    AND wanted.database = held.database
WHERE 0 = ANY(pg_blocking_pids(%(pid)s))
GROUP BY p.gid, p.owner, p.prepared
ORDER BY p.prepared
