"""The only user of psycopg: SQL objects, capture, slot, stream, recounts."""
