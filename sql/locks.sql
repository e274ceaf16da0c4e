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
-- A prepared transaction has no session: its locks have no pid, and its xid is found by the lock it holds on that. Waited
-- for is a table that it has locked, or itself, as by a new slot.
SELECT p.gid, p.owner AS user_name, extract(epoch FROM clock_timestamp() - p.prepared)::float8 AS age
FROM pg_locks AS wanted
JOIN pg_locks AS held ON held.pid IS NULL AND held.granted
    AND (held.transactionid = wanted.transactionid
        OR held.relation = wanted.relation AND held.database = wanted.database)
JOIN pg_locks AS own ON own.virtualtransaction = held.virtualtransaction AND own.pid IS NULL
    AND own.locktype = 'transactionid'
JOIN pg_prepared_xacts AS p ON p.transaction = own.transactionid
WHERE wanted.pid = %(pid)s AND NOT wanted.granted AND 0 = ANY(pg_blocking_pids(%(pid)s))
GROUP BY p.gid, p.owner, p.prepared
ORDER BY p.prepared
