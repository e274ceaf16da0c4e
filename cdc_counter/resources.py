"""Finds the files of `sql/` and `config/`, in a wheel and in an editable install, and reads SQL files.

An SQL file holds named blocks: a line `-- name: block_name` opens one, the comment lines right below it document it.
"""

from functools import cache
from importlib.resources import files
from pathlib import Path

_BLOCK = "-- name:"


def data_folder(name: str) -> Path:
    """Return the folder `sql` or `config` as shipped with this installation."""
    package = Path(str(files("cdc_counter")))
    packaged = package / "_data" / name
    return packaged if packaged.is_dir() else package.parent / name


@cache
def sql_blocks(file: str) -> dict[str, str]:
    """Return the named blocks of `sql/<file>.sql`, in file order.

    Raises KeyError on use of a missing block and FileNotFoundError for a missing file: both are bugs, not input.
    """
    blocks: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in (data_folder("sql") / f"{file}.sql").read_text(encoding="utf-8").splitlines():
        if line.startswith(_BLOCK):
            current = blocks.setdefault(line.removeprefix(_BLOCK).strip(), [])
        elif current is not None:
            current.append(line)
    return {name: "\n".join(lines).strip() for name, lines in blocks.items()}
