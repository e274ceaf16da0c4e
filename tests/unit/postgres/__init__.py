"""The pure parts of the SQL side."""
