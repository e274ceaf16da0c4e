-- The objects of our own: schema, outbox, ledger, counters, publication. Every statement can be run again.

-- name: create_schema
CREATE SCHEMA IF NOT EXISTS {schema}

-- name: close_schema
REVOKE ALL ON SCHEMA {schema} FROM PUBLIC

-- name: create_outbox
CREATE TABLE IF NOT EXISTS {outbox} (
    part smallint NOT NULL DEFAULT {part},
    xid xid8 NOT NULL,
    deltas text NOT NULL
) PARTITION BY LIST (part)

-- name: current_part
((pg_catalog.date_part('epoch', pg_catalog.clock_timestamp())::bigint / 3600) % {leaves})::smallint

-- name: create_outbox_leaf
CREATE TABLE IF NOT EXISTS {leaf} PARTITION OF {outbox} FOR VALUES IN ({part})

-- name: close_outbox
REVOKE ALL ON {outbox} FROM PUBLIC

-- name: create_counters
CREATE TABLE IF NOT EXISTS {counters} (
    id integer PRIMARY KEY,
    name text NOT NULL,
    relation oid NOT NULL,
    definition jsonb NOT NULL,
    scale smallint NOT NULL,
    scoped boolean NOT NULL,
    installed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    retired_at timestamptz
)

-- name: create_counters_index
CREATE UNIQUE INDEX IF NOT EXISTS counters_name ON {counters} (name) WHERE retired_at IS NULL

-- name: close_counters
REVOKE ALL ON {counters} FROM PUBLIC

-- name: create_ledger
-- Entries of three elements tell that a firing's deltas could not be computed: SQLSTATE and message.
CREATE OR REPLACE VIEW {ledger} AS
SELECT o.xid,
    c.name AS counter,
    CASE WHEN json_array_length(e.entry) = 4 THEN e.entry ->> 1 END AS scope,
    CASE WHEN json_array_length(e.entry) = 4 THEN e.entry ->> 2 END AS bucket,
    CASE WHEN json_array_length(e.entry) = 4 THEN (e.entry ->> 3)::numeric END AS delta,
    CASE WHEN json_array_length(e.entry) = 3 THEN (e.entry ->> 1) || ': ' || (e.entry ->> 2) END AS broken
FROM {outbox} AS o
CROSS JOIN LATERAL json_array_elements(o.deltas::json) AS e (entry)
LEFT JOIN {counters} AS c ON c.id = (e.entry ->> 0)::integer

-- name: create_note_key_change
-- Called once a statement, for the first row whose partition key changes. TG_ARGV[0]: the parameter to set.
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $note$
BEGIN
    PERFORM pg_catalog.set_config(TG_ARGV[0], 'on', true);
    RETURN NEW;
END $note$

-- name: create_note_move
-- Called for a row that leaves its partition while a statement changes keys. TG_ARGV[0]: the parameter for the first one.
-- It must never make a write fail.
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql
{settings}
AS $note$
BEGIN
    IF coalesce(current_setting(TG_ARGV[0], true), '') = '' THEN
        PERFORM set_config(TG_ARGV[0], to_jsonb(OLD)::text, true);
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS OR assert_failure THEN
    PERFORM set_config(TG_ARGV[0], '{{}}', true);
    RETURN NULL;
END $note$

-- name: close_function
REVOKE ALL ON FUNCTION {function}() FROM PUBLIC

-- name: drop_function
DROP FUNCTION IF EXISTS {function}()

-- name: comment_schema
COMMENT ON SCHEMA {schema} IS {comment}

-- name: create_publication
CREATE PUBLICATION {publication} FOR TABLE {outbox} WITH (publish = 'insert', publish_via_partition_root = true)

-- name: renew_publication
-- Changes nothing but the row, by which whoever has copied this server is told from it.
ALTER PUBLICATION {publication} SET (publish = 'insert', publish_via_partition_root = true)

-- name: comment_publication
COMMENT ON PUBLICATION {publication} IS {comment}

-- name: insert_counter
INSERT INTO {counters} (id, name, relation, definition, scale, scoped)
VALUES ({id}, {name}, {relation}::pg_catalog.regclass::oid, {definition}, {scale}, {scoped})

-- name: retire_counter
UPDATE {counters} SET retired_at = pg_catalog.clock_timestamp() WHERE id = {id} AND retired_at IS NULL

-- name: announce_retirement
-- The consumer learns in the order of commits that this id's deltas end here: from now on its tallies are not the truth.
INSERT INTO {outbox} (xid, deltas) VALUES (pg_catalog.pg_current_xact_id(), {deltas})

-- name: lock_counters
-- Two installations at once would hand out the same ids.
LOCK TABLE {counters} IN SHARE ROW EXCLUSIVE MODE

-- name: set_lock_timeout
SET LOCAL lock_timeout = {timeout}

-- name: check_partitions
-- A partition made since this was planned would be left without triggers.
DO $check$
BEGIN
    IF (SELECT count(*) FROM pg_catalog.pg_partition_tree({relation})) <> {count} THEN
        RAISE EXCEPTION 'partitions changed since this was planned' USING ERRCODE = '55006';
    END IF;
END
$check$

-- name: drop_publication
DROP PUBLICATION IF EXISTS {publication}

-- name: drop_ledger
DROP VIEW IF EXISTS {ledger}

-- name: drop_outbox
DROP TABLE IF EXISTS {outbox}

-- name: drop_counters
DROP TABLE IF EXISTS {counters}

-- name: drop_schema
-- Fails when the schema holds something that is not ours.
DROP SCHEMA IF EXISTS {schema}
