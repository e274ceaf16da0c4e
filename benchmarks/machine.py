"""Where and from what the figures were taken: machine, versions, commit, command."""

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from cdc_counter.embedded import PostgresServer, RedisServer

ROOT: Final = Path(__file__).parents[1]
_PACKAGES: Final = ("psycopg", "redis", "hiredis", "python-socketio", "aiohttp", "orjson")


def provenance() -> dict[str, Any]:
    """Return everything one needs to know to take the figures again."""
    return {
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "command": shlex.join(["python", "-m", "benchmarks", *without_out(sys.argv[1:])]),
        "machine": _machine(),
        "versions": _versions(),
    }


def without_out(words: Sequence[str]) -> list[str]:
    """Leave out where the figures are kept: that says nothing of them."""
    at = words.index("--out") if "--out" in words else len(words)
    return [*words[:at], *words[at + 2 :]]


def _machine() -> dict[str, Any]:
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    memory = re.search(r"MemTotal:\s*(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8"))
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": model[1] if model else platform.machine(),
        "memory_gib": round(int(memory[1]) / 2**20) if memory else None,
        "kernel": platform.release(),
        "load_before": round(os.getloadavg()[0], 1),
    }


def _versions() -> dict[str, str]:
    postgres, redis = PostgresServer(), RedisServer()
    try:
        servers = {"postgresql": postgres.version, "redis-server": redis.version}
        return {
            "python": platform.python_version(),
            **{name: ".".join(map(str, numbers)) for name, numbers in servers.items()},
            **{name: version(name) for name in _PACKAGES},
        }
    finally:
        postgres.close()
        redis.close()


def _commit() -> str:
    answer = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"],  # noqa: S607 - of whoever runs it
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return answer.stdout.strip() or "unknown"
