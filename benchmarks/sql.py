"""The SQL files that stand beside the benchmark's modules: named blocks, as in the product's own `sql/`."""

from pathlib import Path

import psycopg
from psycopg import sql


def blocks(file: Path) -> dict[str, str]:
    """Return a file's blocks: each begins with a line `-- name: block`."""
    parts = (part.partition("\n") for part in file.read_text(encoding="utf-8").split("-- name: ")[1:])
    return {name.strip(): body.strip() for name, _, body in parts}


def run(connection: psycopg.Connection, block: str, **parts: sql.Composable) -> None:
    """Run a block with its `{placeholders}` filled in; several statements are one transaction."""
    connection.execute(sql.SQL(block).format(**parts))
