-- The capture functions and triggers of one counted table.
--
-- A firing only reads and takes locks until it inserts into the outbox: the blocks that can fail are subtransactions
-- without an xid, and a statement of the application never fails because a counter does. docs/decisions/0021 has why, and
-- 0023 why a statement that changed one row is counted by statements of its own.

-- name: create_function
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
{settings}
AS {body}

-- name: close_function
REVOKE ALL ON FUNCTION {function}() FROM PUBLIC

-- name: comment_function
COMMENT ON FUNCTION {function}() IS {comment}

-- name: row_change_body
#variable_conflict use_column
DECLARE
    cdc_same boolean;
    cdc_row text;
    cdc_alike boolean;
    cdc_entries text[];
    cdc_some text[];
    {store_variables}
BEGIN
{one_row}
    -- Several rows, or one that has to be grouped all the same.
    BEGIN
{all_counters}
    EXCEPTION WHEN OTHERS OR assert_failure THEN
        -- One counter at a time, to lose only the one that fails.
        cdc_entries := NULL;
{one_by_one}
    END;
{moved_check}
{store}
    RETURN NULL;
END

-- name: one_row
    -- One row is the most common case. Whatever is not as it should be is left to the statements below, as are several
    -- rows, of which STRICT complains.
    BEGIN
{find}
        IF cdc_row = '' THEN
            RETURN NULL;
        END IF;
{enter}
        -- Asked only now: who has got the lock has heard of everything that was revoked before.
        IF NOT has_table_privilege({outbox_name}, 'INSERT') THEN
            RAISE insufficient_privilege;
        END IF;
    EXCEPTION WHEN OTHERS OR assert_failure THEN
        cdc_row := NULL;
    END;
    IF cdc_row IS NOT NULL THEN
        INSERT INTO {outbox} (part, xid, deltas)
        VALUES (cdc_part, pg_current_xact_id(), format('[%s]', right(cdc_row, -1)));
        RETURN NULL;
    END IF;
    IF NOT EXISTS ({rows}) THEN
        RETURN NULL;
    END IF;

-- name: one_row_entries
        SELECT {entries}, {part} INTO STRICT cdc_row, cdc_part
FROM {source};

-- name: same_row
record_image_eq(ROW({columns}), (SELECT ROW({columns}) FROM old_rows AS cdc_old))

-- name: one_row_changes
        -- To compare first costs a query more where counts change; where they don't it spares most of the work.
        SELECT {same} INTO STRICT cdc_same FROM new_rows AS cdc_new;
        IF cdc_same THEN
            RETURN NULL;
        END IF;
        SELECT {entries}, {part} INTO STRICT cdc_row, cdc_part
FROM {new}, {old};

-- name: grouped
        SELECT array_agg(entry) INTO cdc_entries FROM (
{entries}
        ) AS firing;

-- name: grouped_at_once
        cdc_alike := EXISTS (SELECT FROM {source} OFFSET {many});
        IF cdc_alike THEN
            SELECT count(*) <= {few} INTO cdc_alike FROM (
SELECT DISTINCT {columns} FROM (
{some}
LIMIT {sample}
) AS r
            ) AS kinds;
        END IF;
        IF cdc_alike THEN
            WITH cdc_kinds AS MATERIALIZED (
SELECT {columns}, {totals} FROM (
{rows}
) AS r GROUP BY {columns}
            )
            SELECT array_agg(entry) INTO cdc_entries FROM (
{entries}
            ) AS firing;
        ELSE
{one_by_one}
        END IF;

-- name: rows_of_kinds
SELECT {columns} FROM cdc_kinds {where}

-- name: unless_rows_move
    IF current_setting({changed}, true) IS DISTINCT FROM 'on' THEN
{statements}
    END IF;

-- name: moved_check
    -- A row that a MERGE moves between partitions is not in old_rows: then nobody knows what it was.
    IF current_setting({changed}, true) = 'on' THEN
        BEGIN
            IF current_setting({moved}, true) <> '' THEN
                IF NOT EXISTS (SELECT FROM old_rows AS o WHERE to_jsonb(o) = current_setting({moved})::jsonb) THEN
                    cdc_entries := ARRAY[{broken}];
                END IF;
            END IF;
        EXCEPTION WHEN OTHERS OR assert_failure THEN
            cdc_entries := ARRAY[{broken}];
        END;
        PERFORM set_config({changed}, '', true), set_config({moved}, '', true);
    END IF;

-- name: store_variables
cdc_part smallint;
    cdc_reason text;

-- name: store
    IF cdc_entries IS NOT NULL THEN
        -- The outbox has to let us in at once, or the write goes on without it: another transaction is never waited for.
        -- Where somebody holds this hour's partition, the one before it will do: it is not emptied within the hour.
        FOREACH cdc_part IN ARRAY ARRAY[{part}, ({part} + {leaves} - 1) % {leaves}] LOOP
            BEGIN
                EXECUTE format({lock}, cdc_part);
                IF NOT has_table_privilege({outbox_name}, 'INSERT') THEN
                    RAISE insufficient_privilege;
                END IF;
                cdc_reason := NULL;
                EXIT;
            EXCEPTION WHEN OTHERS OR assert_failure THEN
                cdc_reason := SQLSTATE;
            END;
        END LOOP;
        IF cdc_reason IS NOT NULL THEN
            -- The WAL takes the news in place of the table: in ASCII, for the stream converts no message. Whether we may
            -- is asked and not tried: in a block that can fail the message would take an xid for each firing.
            IF (SELECT bool_and(has_function_privilege(oid, 'EXECUTE')) FROM pg_proc
                WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = 'pg_logical_emit_message'
                  AND proargtypes[2] = 'text'::regtype) THEN
                PERFORM pg_logical_emit_message(true, {outbox_name}, cdc_reason || ' {ids}');
            END IF;
            -- Where we may not, it is for those who look at the outbox, and for verifying.
        ELSIF cardinality(cdc_entries) <= {chunk} THEN
            INSERT INTO {outbox} (part, xid, deltas) VALUES (
                cdc_part, pg_current_xact_id(), '[' || array_to_string(cdc_entries, ',') || ']'
            );
        ELSE
            INSERT INTO {outbox} (part, xid, deltas)
            SELECT cdc_part, pg_current_xact_id(), '[' || string_agg(each.entry, ',') || ']'
              FROM unnest(cdc_entries) WITH ORDINALITY AS each (entry, number)
             GROUP BY (each.number - 1) / {chunk};
        END IF;
    END IF;

-- name: enter_leaf
IF cdc_part < {part} THEN
{lower}
ELSE
{upper}
END IF;

-- name: lock_outbox
LOCK TABLE ONLY {outbox}, {leaf} IN ROW EXCLUSIVE MODE NOWAIT

-- name: one_counter
        BEGIN
            SELECT array_agg(entry) INTO cdc_some FROM (
{entries}
            ) AS firing;
        EXCEPTION WHEN OTHERS OR assert_failure THEN
            cdc_some := ARRAY['[' || {id} || ',"' || SQLSTATE || '",' || to_json(left(SQLERRM, 500))::text || ']'];
        END;
        cdc_entries := cdc_entries || cdc_some;

-- name: truncate_body
-- A snapshot older than the lock does not see every row that is going: then the counters have to be recounted.
DECLARE
    cdc_entries text[];
    cdc_some text[];
    {store_variables}
    cdc_is_current boolean := current_setting('transaction_isolation') LIKE 'read %';
BEGIN
    IF pg_relation_size(TG_RELID) = 0 THEN
        RETURN NULL;
    END IF;
{counters}
{store}
    RETURN NULL;
END

-- name: truncate_counter
    BEGIN
        IF NOT cdc_is_current THEN
            RAISE EXCEPTION USING ERRCODE = '0A000',
                MESSAGE = 'TRUNCATE in a ' || current_setting('transaction_isolation') || ' transaction can''t be counted';
        END IF;
        EXECUTE format({query}, TG_TABLE_SCHEMA, TG_TABLE_NAME) INTO cdc_some;
    EXCEPTION WHEN OTHERS OR assert_failure THEN
        cdc_some := ARRAY['[' || {id} || ',"' || SQLSTATE || '",' || to_json(left(SQLERRM, 500))::text || ']'];
    END;
    cdc_entries := cdc_entries || cdc_some;

-- name: truncate_query
SELECT array_agg(entry) FROM (
{entries}
) AS firing

-- name: insert_trigger
CREATE OR REPLACE TRIGGER {trigger} AFTER INSERT ON {relation}
REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION {function}()

-- name: update_trigger
CREATE OR REPLACE TRIGGER {trigger} AFTER UPDATE ON {relation}
REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION {function}()

-- name: delete_trigger
CREATE OR REPLACE TRIGGER {trigger} AFTER DELETE ON {relation}
REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION {function}()

-- name: truncate_trigger
CREATE OR REPLACE TRIGGER {trigger} BEFORE TRUNCATE ON {relation}
FOR EACH STATEMENT EXECUTE FUNCTION {function}()

-- name: new_row_guard
-- Never fires: that it is there makes PostgreSQL capture the rows that a MERGE has really written.
CREATE OR REPLACE TRIGGER {trigger} BEFORE INSERT ON {relation}
FOR EACH ROW WHEN (false) EXECUTE FUNCTION {function}('')

-- name: changed_key_guard
CREATE OR REPLACE TRIGGER {trigger} BEFORE UPDATE ON {relation}
FOR EACH ROW WHEN (({condition}) AND pg_catalog.current_setting({changed}, true) IS DISTINCT FROM 'on')
EXECUTE FUNCTION {function}({changed})

-- name: moved_row_guard
-- A row that moves is deleted here and inserted there.
CREATE OR REPLACE TRIGGER {trigger} AFTER DELETE ON {relation}
FOR EACH ROW WHEN (pg_catalog.current_setting({changed}, true) = 'on') EXECUTE FUNCTION {function}({moved})

-- name: drop_guard
DO $drop$
BEGIN
    IF EXISTS (
        SELECT FROM pg_catalog.pg_trigger
        WHERE tgrelid = pg_catalog.to_regclass({relation}) AND tgname = {trigger} AND tgparentid = 0
    ) THEN
        EXECUTE pg_catalog.format('DROP TRIGGER %I ON %s', {trigger}, {relation});
    END IF;
END
$drop$

-- name: enable_trigger
ALTER TABLE {relation} ENABLE ALWAYS TRIGGER {trigger}

-- name: drop_trigger
DROP TRIGGER IF EXISTS {trigger} ON {relation}

-- name: drop_function
DROP FUNCTION IF EXISTS {function}()

-- name: rows_entries
SELECT '[' || {id} || ',' || to_json({scope})::text || ',' || to_json({bucket})::text || ',' || {delta} || ']' AS entry
FROM (
{grouped}
) AS g

-- name: one_sided
SELECT {keys}{total} AS d FROM (
{rows}
) AS r {group_by} HAVING {total} <> 0

-- name: two_sided
SELECT {keys}sum(d) AS d FROM (
SELECT {keys}{plus} AS d FROM (
{new_rows}
) AS r
UNION ALL
SELECT {keys}{minus} FROM (
{old_rows}
) AS r
) AS r {group_by} HAVING sum(d) <> 0

-- name: create_truth_view
-- One collation whatever the keys are: a view can be replaced only by one with the same columns.
CREATE OR REPLACE VIEW {view} AS
SELECT ({scope}) COLLATE "C" AS scope, ({bucket}) COLLATE "C" AS bucket, {value} AS value FROM (
SELECT {keys}{total} AS d FROM (
{rows}
) AS r {group_by}
) AS g WHERE d <> 0

-- name: comment_view
COMMENT ON VIEW {view} IS {comment}

-- name: drop_view
DROP VIEW IF EXISTS {view}

-- name: lock_for_install
-- Writers wait behind this for as long as it waits itself, so it waits briefly and tries again.
LOCK TABLE {relation} IN SHARE ROW EXCLUSIVE MODE

-- name: lock_for_removal
LOCK TABLE {relation} IN ACCESS EXCLUSIVE MODE
