-- The soak's own tables, for when no others are named, and an honest recount of each counter of config/soak.toml: plain
-- SQL that shares nothing with what cdc-counter installs.

-- name: schema
CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, region text NOT NULL DEFAULT 'eu');
CREATE TYPE urgency AS ENUM ('low', 'normal', 'high');
CREATE TABLE conversations (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id int,
    channel_id int,
    assignee text,
    status text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'closed', 'pending')),
    urgency urgency NOT NULL DEFAULT 'normal',
    tags text[] NOT NULL DEFAULT '{}',
    amount numeric(12,2),
    note text,
    customer_id int REFERENCES customers (id) ON DELETE CASCADE,
    referrer_id int REFERENCES customers (id) ON DELETE SET NULL ON UPDATE CASCADE
);
CREATE INDEX ON conversations (customer_id);
CREATE INDEX ON conversations (referrer_id);
CREATE TABLE tickets (
    id bigint NOT NULL,
    region text NOT NULL,
    day int NOT NULL,
    state text NOT NULL CHECK (state IN ('new', 'open', 'done')),
    weight int,
    PRIMARY KEY (region, day, id)
) PARTITION BY LIST (region);
CREATE TABLE tickets_eu PARTITION OF tickets FOR VALUES IN ('eu') PARTITION BY RANGE (day);
CREATE TABLE tickets_eu_early PARTITION OF tickets_eu FOR VALUES FROM (0) TO (50);
CREATE TABLE tickets_eu_late PARTITION OF tickets_eu FOR VALUES FROM (50) TO (100);
CREATE TABLE tickets_us PARTITION OF tickets FOR VALUES IN ('us');
CREATE TABLE notes (id int, label text, stars smallint, UNIQUE (id));
CREATE TABLE note_links (note_id int, kind text);
-- A BEFORE trigger that changes rows and drops some, an AFTER trigger that writes to the same table again.
CREATE FUNCTION adjust() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.account_id = 5 AND NEW.channel_id = 5 THEN RETURN NULL; END IF;
    IF NEW.channel_id = 6 THEN NEW.channel_id := 0; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER adjust BEFORE INSERT OR UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION adjust();
CREATE FUNCTION echo() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO conversations (account_id, channel_id, assignee, status) VALUES (NEW.account_id, 7, 'echo', 'open');
    RETURN NULL;
END $$;
CREATE TRIGGER echo AFTER INSERT ON conversations FOR EACH ROW
WHEN (NEW.account_id = 4 AND NEW.channel_id = 4) EXECUTE FUNCTION echo();

-- name: data
INSERT INTO customers SELECT i, 'customer ' || i, CASE i % 3 WHEN 0 THEN 'us' ELSE 'eu' END FROM generate_series(1, 200) AS i;
INSERT INTO conversations (account_id, channel_id, assignee, status, tags, amount, customer_id, referrer_id)
SELECT i % 6, i % 8, 'agent ' || i % 11, CASE i % 3 WHEN 0 THEN 'open' ELSE 'closed' END,
       ARRAY['t' || i % 5, 'all'], i % 1000 / 7.0, i % 200 + 1, nullif(i % 7, 0)
  FROM generate_series(1, 2000) AS i;
INSERT INTO tickets SELECT i, CASE WHEN i % 3 = 0 THEN 'us' ELSE 'eu' END, i % 100,
       CASE i % 3 WHEN 0 THEN 'new' WHEN 1 THEN 'open' ELSE 'done' END, i % 11
  FROM generate_series(1, 1500) AS i;
INSERT INTO notes SELECT i, 'label ' || i % 20, i % 6 FROM generate_series(1, 800) AS i;
INSERT INTO note_links SELECT i, 'k' || i % 3 FROM generate_series(1, 500) AS i;

-- name: key_text
-- How a text stands for a key, written down once more: only the recounts below use it.
CREATE FUNCTION key_text(key text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN key IS NULL THEN '\N'
                WHEN octet_length(key) > 1024 THEN left(key, 200) || '~' || encode(sha256(convert_to(key, 'UTF8')), 'hex')
                WHEN left(key, 1) = '\' THEN '\' || key ELSE key END
$$

-- name: honest open_by_channel
SELECT coalesce(account_id::text, '\N'), coalesce(channel_id::text, '\N'), count(*)
  FROM conversations WHERE status = 'open' GROUP BY account_id, channel_id

-- name: honest by_assignee
SELECT '-', key_text(assignee), count(*)
  FROM conversations GROUP BY assignee

-- name: honest open_by_tag
SELECT coalesce(account_id::text, '\N'), key_text(tag), count(*)
  FROM conversations, unnest(tags) AS tag WHERE status <> 'closed' GROUP BY account_id, tag

-- name: honest amount_by_account_and_status
SELECT '-', replace(json_build_array(account_id, status)::text, ', ', ','), sum((amount * 100)::bigint)
  FROM conversations GROUP BY account_id, status

-- name: honest urgent
SELECT '-', '-', count(*) FROM conversations WHERE urgency = 'high'

-- name: honest tickets_by_state
SELECT region, state, count(*) FROM tickets GROUP BY region, state

-- name: honest ticket_weight
SELECT '-', '-', sum(weight) FROM tickets

-- name: honest notes_by_label
SELECT key_text(label), coalesce(stars::text, '\N'), count(*)
  FROM notes GROUP BY label, stars

-- name: honest links_by_kind
SELECT '-', key_text(kind), count(*)
  FROM note_links GROUP BY kind

-- name: honest customers_by_region
SELECT '-', key_text(region), count(*) FROM customers GROUP BY region
