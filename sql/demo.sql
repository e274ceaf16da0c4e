-- The helpdesk of `cdc-counter demo`: an application that knows nothing of the counters on it.
-- Blocks named act_* are single statements with the parameters account and count; they are what people and programs do
-- to such a table, chosen for what breaks counters that are kept by hand.

-- name: schema
CREATE SCHEMA helpdesk;
CREATE TABLE helpdesk.accounts (
    id int PRIMARY KEY,
    name text NOT NULL
);
CREATE TABLE helpdesk.channels (
    id int PRIMARY KEY,
    account_id int NOT NULL REFERENCES helpdesk.accounts,
    name text NOT NULL
);
CREATE TABLE helpdesk.teammates (
    id int PRIMARY KEY,
    account_id int NOT NULL REFERENCES helpdesk.accounts,
    name text NOT NULL
);
CREATE TABLE helpdesk.tags (
    account_id int NOT NULL REFERENCES helpdesk.accounts,
    name text NOT NULL,
    PRIMARY KEY (account_id, name)
);
CREATE TABLE helpdesk.conversations (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id int NOT NULL REFERENCES helpdesk.accounts,
    channel_id int NOT NULL REFERENCES helpdesk.channels,
    assignee_id int REFERENCES helpdesk.teammates ON DELETE SET NULL,
    status text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'snoozed', 'closed')),
    subject text NOT NULL,
    tags text[] NOT NULL DEFAULT '{}',
    order_value numeric(10, 2) NOT NULL DEFAULT 0
);
CREATE INDEX ON helpdesk.conversations (account_id, status);
-- Of the demo itself, not of the helpdesk.
CREATE TABLE helpdesk.demo_traffic (running boolean NOT NULL);
INSERT INTO helpdesk.demo_traffic VALUES (true);
CREATE TABLE helpdesk.demo_activity (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    who text NOT NULL,
    account_id int NOT NULL,
    what text NOT NULL,
    row_count int NOT NULL
);

-- name: data
-- Account 4 is where the page measures the time from commit to screen; it is not shown.
INSERT INTO helpdesk.accounts VALUES (1, 'Northwind Outdoor'), (2, 'Lumen Kitchen'), (3, 'Harbour Books'), (4, 'Latency');
INSERT INTO helpdesk.channels
SELECT account * 100 + position, account, name
FROM generate_series(1, 3) AS account,
     unnest(ARRAY['Email', 'Chat', 'Phone', 'Instagram', 'WhatsApp', 'Contact form']) WITH ORDINALITY AS c (name, position);
INSERT INTO helpdesk.channels VALUES (401, 4, 'Probe');
INSERT INTO helpdesk.teammates
SELECT account * 100 + position, account, name
FROM (VALUES
        (1, ARRAY['Amira Haddad', 'Ben Okafor', 'Clara Lindqvist', 'Diego Fuentes', 'Elif Yılmaz']),
        (2, ARRAY['Farid Rahimi', 'Grace Mwangi', 'Hugo Laurent', 'Ines Costa', 'Jonas Weber']),
        (3, ARRAY['Keiko Tanaka', 'Liam Byrne', 'Mira Novák', 'Noah Cohen', 'Olga Petrova'])
     ) AS team (account, names),
     unnest(names) WITH ORDINALITY AS t (name, position);
INSERT INTO helpdesk.tags
SELECT account, name
FROM generate_series(1, 3) AS account,
     unnest(ARRAY['refund', 'urgent', 'vip', 'shipping', 'bug', 'question', 'complaint']) AS t (name);
-- A fixed seed: the demo starts with the same numbers each time.
SELECT setseed(0.42);
INSERT INTO helpdesk.conversations (account_id, channel_id, assignee_id, status, subject, tags, order_value)
SELECT account,
       account * 100 + 1 + floor(6 * random() * random())::int,
       CASE WHEN random() < 0.7 THEN account * 100 + 1 + floor(5 * random())::int END,
       (ARRAY['open', 'closed', 'closed', 'snoozed', 'closed', 'open'])[1 + floor(6 * random())::int],
       'Conversation ' || n,
       ARRAY(
           SELECT name FROM unnest(ARRAY['refund', 'urgent', 'vip', 'shipping', 'bug', 'question', 'complaint']) AS t (name)
           WHERE random() < 0.22 + 0 * n
       ),
       round((5 + 195 * random() * random())::numeric, 2)
FROM generate_series(1, 3) AS account, generate_series(1, 8000) AS n;
INSERT INTO helpdesk.conversations (account_id, channel_id, subject) VALUES (4, 401, 'Probe');
ANALYZE helpdesk.conversations;

-- name: layout
SELECT json_agg(
           json_build_object(
               'id', a.id,
               'name', a.name,
               'channels', (
                   SELECT json_agg(json_build_object('id', c.id, 'name', c.name) ORDER BY c.id)
                   FROM helpdesk.channels AS c WHERE c.account_id = a.id
               ),
               'teammates', (
                   SELECT json_agg(json_build_object('id', t.id, 'name', t.name) ORDER BY t.name)
                   FROM helpdesk.teammates AS t WHERE t.account_id = a.id
               ),
               'tags', (
                   SELECT json_agg(json_build_object('id', g.name, 'name', g.name) ORDER BY g.name)
                   FROM helpdesk.tags AS g WHERE g.account_id = a.id
               )
           )
           ORDER BY a.id
       )
FROM helpdesk.accounts AS a
WHERE a.id < 4;

-- name: hold_still
-- Waits for the writers of this moment and keeps new ones out, while readers go on: the table cannot change until the
-- transaction ends, so that counting it and asking for the tallies are about the same rows.
LOCK TABLE helpdesk.conversations IN SHARE MODE;

-- name: recount
-- Written by hand, not the truth views: an independent answer.
SELECT 'open_by_channel', channel_id::text, count(*)
FROM helpdesk.conversations WHERE account_id = %(account)s AND status = 'open' GROUP BY channel_id
UNION ALL
SELECT 'open_by_teammate', coalesce(assignee_id::text, '\N'), count(*)
FROM helpdesk.conversations WHERE account_id = %(account)s AND status = 'open' GROUP BY assignee_id
UNION ALL
SELECT 'open_by_tag', tag, count(*)
FROM helpdesk.conversations, unnest(tags) AS tag WHERE account_id = %(account)s AND status = 'open' GROUP BY tag
UNION ALL
SELECT 'open_order_value', '-', (100 * sum(order_value))::bigint
FROM helpdesk.conversations WHERE account_id = %(account)s AND status = 'open' HAVING sum(order_value) <> 0;

-- name: probe
-- A value that only ever grows, in an account of its own: the event that carries it belongs to this commit.
UPDATE helpdesk.conversations SET order_value = order_value + 0.01
WHERE account_id = 4
RETURNING (100 * order_value)::bigint;

-- name: activity
SELECT id, extract(epoch FROM at)::float8, who, account_id, what, row_count
FROM helpdesk.demo_activity WHERE account_id = %(account)s AND id > %(after)s ORDER BY id DESC LIMIT 12;

-- name: note_activity
INSERT INTO helpdesk.demo_activity (who, account_id, what, row_count)
VALUES (%(who)s, %(account)s, %(what)s, %(rows)s);

-- name: trim_activity
DELETE FROM helpdesk.demo_activity WHERE at < now() - interval '5 minutes';

-- name: act_create
INSERT INTO helpdesk.conversations (account_id, channel_id, assignee_id, subject, tags, order_value)
SELECT %(account)s,
       (SELECT c.id FROM helpdesk.channels AS c WHERE c.account_id = %(account)s ORDER BY random() + 0 * n LIMIT 1),
       NULL,
       'New conversation',
       ARRAY(SELECT g.name FROM helpdesk.tags AS g WHERE g.account_id = %(account)s AND random() < 0.25 + 0 * n),
       round((5 + 195 * random() * random())::numeric, 2)
FROM generate_series(1, %(count)s) AS n;

-- name: act_assign
-- Those without a teammate first.
UPDATE helpdesk.conversations AS c
SET assignee_id = (
    SELECT t.id FROM helpdesk.teammates AS t
    WHERE t.account_id = c.account_id AND t.id IS DISTINCT FROM c.assignee_id
    ORDER BY random() LIMIT 1
)
WHERE id IN (
    SELECT id FROM helpdesk.conversations
    WHERE account_id = %(account)s AND status = 'open'
    ORDER BY assignee_id IS NOT NULL, random() LIMIT %(count)s
    FOR UPDATE SKIP LOCKED
);

-- name: act_race
-- Everybody goes for the same conversation; PostgreSQL lets one win, and the others change nothing.
UPDATE helpdesk.conversations
SET assignee_id = (SELECT id FROM helpdesk.teammates WHERE account_id = %(account)s ORDER BY random() LIMIT 1)
WHERE assignee_id IS NULL
  AND id = (
      SELECT min(id) FROM helpdesk.conversations
      WHERE account_id = %(account)s AND status = 'open' AND assignee_id IS NULL
  );

-- name: act_close
UPDATE helpdesk.conversations SET status = 'closed'
WHERE id IN (
    SELECT id FROM helpdesk.conversations
    WHERE account_id = %(account)s AND status = 'open'
    ORDER BY random() LIMIT %(count)s
    FOR UPDATE SKIP LOCKED
);

-- name: act_refill
-- Reopens as many as are missing to the number the demo started with, at most `count`.
UPDATE helpdesk.conversations SET status = 'open', assignee_id = NULL
WHERE id IN (
    SELECT id FROM helpdesk.conversations
    WHERE account_id = %(account)s AND status <> 'open'
    ORDER BY random()
    LIMIT least(
        %(count)s::bigint,
        greatest(0, 2650 - (SELECT count(*) FROM helpdesk.conversations WHERE account_id = %(account)s AND status = 'open'))
    )
    FOR UPDATE SKIP LOCKED
);

-- name: act_snooze
UPDATE helpdesk.conversations SET status = CASE status WHEN 'open' THEN 'snoozed' ELSE 'open' END
WHERE id IN (
    SELECT id FROM helpdesk.conversations
    WHERE account_id = %(account)s AND status IN ('open', 'snoozed')
    ORDER BY random() LIMIT %(count)s
    FOR UPDATE SKIP LOCKED
);

-- name: act_move
UPDATE helpdesk.conversations
SET channel_id = (SELECT id FROM helpdesk.channels WHERE account_id = %(account)s ORDER BY random() LIMIT 1)
WHERE id IN (
    SELECT id FROM helpdesk.conversations
    WHERE account_id = %(account)s
    ORDER BY random() LIMIT %(count)s
    FOR UPDATE SKIP LOCKED
);

-- name: act_retag
UPDATE helpdesk.conversations AS c
SET tags = ARRAY(
    SELECT g.name FROM helpdesk.tags AS g WHERE g.account_id = c.account_id AND random() < 0.3 ORDER BY g.name
)
WHERE id IN (
    SELECT id FROM helpdesk.conversations
    WHERE account_id = %(account)s AND status = 'open'
    ORDER BY random() LIMIT %(count)s
    FOR UPDATE SKIP LOCKED
);

-- name: act_rename
-- Nothing that is counted.
UPDATE helpdesk.conversations SET subject = subject
WHERE id IN (
    SELECT id FROM helpdesk.conversations
    WHERE account_id = %(account)s AND status = 'open' LIMIT %(count)s
    FOR UPDATE SKIP LOCKED
);

-- name: act_delete
DELETE FROM helpdesk.conversations
WHERE id IN (
    SELECT id FROM helpdesk.conversations
    WHERE account_id = %(account)s
    ORDER BY random() LIMIT %(count)s
    FOR UPDATE SKIP LOCKED
);

-- name: act_merge
-- A script that somebody runs at night: one statement that inserts, updates and deletes.
WITH picked AS MATERIALIZED (
    SELECT id, (ARRAY['close', 'delete', 'reopen'])[1 + floor(3 * random())::int] AS verdict
    FROM helpdesk.conversations
    WHERE account_id = %(account)s
    ORDER BY random() LIMIT %(count)s
    FOR UPDATE SKIP LOCKED
)
MERGE INTO helpdesk.conversations AS target
USING (
    SELECT id, verdict FROM picked
    UNION ALL
    SELECT -n, 'new' FROM generate_series(1, %(count)s) AS n
) AS source
ON target.id = source.id
WHEN MATCHED AND verdict = 'delete' THEN DELETE
WHEN MATCHED THEN UPDATE SET status = CASE verdict WHEN 'close' THEN 'closed' ELSE 'open' END
WHEN NOT MATCHED THEN INSERT (account_id, channel_id, subject, tags, order_value)
    VALUES (%(account)s, %(account)s * 100 + 1, 'Imported', '{question}', 19.99);

-- name: act_cte
-- Several changes of the same table in one statement.
WITH gone AS (
    DELETE FROM helpdesk.conversations
    WHERE id IN (
        SELECT id FROM helpdesk.conversations WHERE account_id = %(account)s AND status = 'open'
        ORDER BY random() LIMIT %(count)s
        FOR UPDATE SKIP LOCKED
    )
    RETURNING account_id, channel_id, tags, order_value
)
INSERT INTO helpdesk.conversations (account_id, channel_id, subject, tags, order_value)
SELECT account_id, channel_id, 'Copied', tags, order_value FROM gone;
