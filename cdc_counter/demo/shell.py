"""Command lines to copy into another terminal: they work where neither program is on the PATH, as after `make demo`.

Only names programs; runs nothing.
"""

import shlex
import shutil
import sys
from pathlib import Path

from cdc_counter.embedded.binaries import postgres_bin_dir


def watch_line(config: Path, counter: str, scope: str) -> str:
    """Return the line that shows one scope's numbers live."""
    # Installed beside the interpreter that runs us, which may be in an environment that is not activated.
    beside = Path(sys.executable).with_name("cdc-counter")
    return shlex.join([_shortest("cdc-counter", beside), "--config", str(config), "watch", counter, scope])


def psql_line(dsn: str) -> str:
    """Return the line that opens psql on a database: the one on the PATH, else the one beside the demo's server."""
    return shlex.join([_shortest("psql", postgres_bin_dir() / "psql"), dsn])


def _shortest(name: str, fallback: Path) -> str:
    return name if shutil.which(name) or not fallback.exists() else str(fallback)
