-- A table to count, for docker-compose.yml. The server's image runs this once, when it creates the database.
CREATE TABLE public.conversations (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id int NOT NULL,
    channel_id int NOT NULL,
    status text NOT NULL DEFAULT 'open'
);
INSERT INTO public.conversations (account_id, channel_id)
SELECT 1 + n % 3, 1 + n % 5 FROM generate_series(1, 1000) AS n;
