"""SQL text from the named blocks of `sql/`, with identifiers and literals quoted by psycopg.

Everything installed goes through here, so that one place decides how names and texts of users become SQL. Knows no
object and no connection.
"""

import hashlib

from psycopg import sql

from cdc_counter.resources import sql_blocks


def raw(text: str) -> sql.SQL:
    """Return SQL that is already SQL: our own files, and what PostgreSQL itself deparsed."""
    return sql.SQL(text)


def render(file: str, block: str, **parts: sql.Composable) -> str:
    """Return block `block` of `sql/<file>.sql` with its `{placeholders}` filled in."""
    return raw(sql_blocks(file)[block]).format(**parts).as_string(None)


def block(file: str, name: str) -> sql.SQL:
    """Return a block that is executed with parameters, unchanged."""
    return raw(sql_blocks(file)[name])


def qualified(schema: str, name: str) -> sql.Identifier:
    """Return `schema.name`, quoted where needed."""
    return sql.Identifier(schema, name)


def identifier_text(schema: str, name: str) -> str:
    """Return `schema.name` as text, quoted."""
    return qualified(schema, name).as_string(None)


def literal_text(value: str | int) -> str:
    """Return a literal as SQL text; a backslash makes it an E'' string, so session settings do not matter."""
    return sql.Literal(value).as_string(None).strip()


def dollar_quoted(body: str, word: str) -> str:
    """Return `body` dollar-quoted with a tag that does not occur in it."""
    tag = word
    number = 0
    while f"${tag}$" in body:
        number += 1
        tag = f"{word}{number}"
    return f"${tag}$\n{body}\n${tag}$"


def content_hash(text: str) -> str:
    """Return the 16 hexadecimal digits kept in an object's COMMENT."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
