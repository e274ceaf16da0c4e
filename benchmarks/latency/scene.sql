-- One table of messages in rooms for each of those who are compared, in databases of their own but for ours.

-- name: table
CREATE TABLE {table} (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    room int NOT NULL,
    body text NOT NULL
);
CREATE INDEX ON {table} (room);
INSERT INTO {table} (room, body)
SELECT room, 'What was said before' FROM generate_series(1, {base}), generate_series(0, {rooms} - 1) AS room;

-- name: vacuum
VACUUM ANALYZE {table}

-- name: notify
CREATE FUNCTION name_room() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('rooms', NEW.room::text);
    RETURN NULL;
END
$$;
CREATE TRIGGER name_room AFTER INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION name_room();

-- name: publish
CREATE PUBLICATION {table} FOR TABLE {table}

-- name: slot
SELECT pg_create_logical_replication_slot({name}, 'pgoutput')
