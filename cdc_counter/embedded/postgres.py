"""A PostgreSQL server as a child process: create the cluster, start, stop, crash, start again.

Synchronous and without a driver: readiness is read from postmaster.pid, as pg_ctl does.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, Self
from urllib.parse import quote

from cdc_counter.embedded.binaries import postgres_bin_dir, runnable_bin_dir, server_user
from cdc_counter.embedded.child import Child, free_port, spawn
from cdc_counter.errors import NotReadyError

DEFAULT_SETTINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "wal_level": "logical",
        "max_replication_slots": "20",
        "max_wal_senders": "20",
        "max_prepared_transactions": "20",
    }
)
_START_SECONDS = 60.0
"""Recovery after a crash is part of a start."""

_STOP_SIGNALS = MappingProxyType({"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT})
_STATUS_LINE = 7
"""Line 8 of postmaster.pid is the status; see storage/pidfile.h (LOCK_FILE_LINE_PM_STATUS)."""


class PostgresServer:
    """A cluster of our own: superuser `postgres`, trusted on 127.0.0.1 and on a unix socket in `folder`.

    Without `data_dir` the data is temporary and `close` removes it. `port` 0 picks a free one, kept over
    restarts. As root the server runs as another user; an existing `data_dir` must then be his. As a context
    manager it is started and closed.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        port: int = 0,
        *,
        bin_dir: Path | None = None,
        settings: Mapping[str, str] | None = None,
        fsync: bool = True,
    ) -> None:
        self.bin_dir = bin_dir or postgres_bin_dir()
        self.port = port or free_port()
        self.settings = {**DEFAULT_SETTINGS, "fsync": "on" if fsync else "off", **(settings or {})}
        self._user = server_user()
        self.folder = Path(tempfile.mkdtemp(prefix="cdc-counter-postgres-"))
        self._give(self.folder)
        self.data_dir = self.folder / "data" if data_dir is None else data_dir.resolve()
        self.log = self.folder / "postgres.log"
        self._child: Child | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The postmaster's process id; raises NotReadyError while the server is stopped."""
        if self._child is None:
            raise NotReadyError(f"PostgreSQL in {self.data_dir} is stopped", hint="start it first")
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether the postmaster runs."""
        return self._child is not None and self._child.running

    @property
    def version(self) -> tuple[int, int]:
        """Major and minor version, such as (18, 6)."""
        answer = subprocess.run([self.bin_dir / "postgres", "-V"], capture_output=True, text=True, check=True)
        major, minor = answer.stdout.split()[2].split(".")[:2]
        return int(major), int(minor)

    def dsn(self, dbname: str = "postgres", user: str = "postgres") -> str:
        """Return a connection string over TCP."""
        return f"postgresql://{quote(user)}@127.0.0.1:{self.port}/{quote(dbname)}"

    def start(self) -> None:
        """Create the cluster if there is none, start it and wait until it accepts connections."""
        if self.running:
            return
        bin_dir = runnable_bin_dir(self.bin_dir, self._user, self.folder)
        if not (self.data_dir / "PG_VERSION").exists():
            self._initdb(bin_dir)
        settings = {
            **self.settings,
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.folder),
        }
        options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
        self._child = spawn(
            [bin_dir / "postgres", "-D", self.data_dir, *options],
            log=self.log,
            # Immediate shutdown: ends within seconds and leaves no shared memory behind.
            owner_gone=signal.SIGQUIT,
            user=self._user,
            remove=[self.folder],
        )
        self._child.wait_until(self._accepts_connections, _START_SECONDS, f"PostgreSQL on port {self.port}")

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast", timeout: float = 60.0) -> None:
        """Stop as `pg_ctl stop -m MODE` does; the data stays. Raises NotReadyError when it does not end."""
        if self._child is None:
            return
        self._child.signal(_STOP_SIGNALS[mode])
        if not self._child.wait(timeout):
            raise NotReadyError(
                f"PostgreSQL pid {self.pid} did not stop within {timeout:.0f} s", hint=f"read {self.log}"
            )
        self._child.release()
        self._child = None

    def kill(self) -> None:
        """Crash it: SIGKILL to the postmaster and to every process it started."""
        if self._child is None:
            return
        # Stopped first, so that it starts no process between the listing and the kill.
        self._child.signal(signal.SIGSTOP)
        backends = _children_of(self._child.pid)
        self._child.signal(signal.SIGKILL)
        for pid in backends:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._child.wait(_START_SECONDS)
        self._child.release()
        self._child = None

    def restart(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop and start."""
        self.stop(mode)
        self.start()

    def close(self) -> None:
        """Stop the server and remove everything temporary."""
        self.stop("immediate" if self.data_dir.is_relative_to(self.folder) else "fast")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _initdb(self, bin_dir: Path) -> None:
        if not self.data_dir.exists():
            self.data_dir.mkdir(mode=0o700, parents=True)
            self._give(self.data_dir)
        user = {} if self._user is None else {"user": self._user.uid, "group": self._user.gid, "extra_groups": []}
        options = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
        result = subprocess.run(  # type: ignore[call-overload]  # the options of a switch of user are passed on as a dict
            [bin_dir / "initdb", "-D", self.data_dir, *options],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            **user,
        )
        if result.returncode != 0:
            reason = " | ".join(result.stderr.strip().splitlines()[-3:])
            raise NotReadyError(f"initdb failed in {self.data_dir}: {reason}", hint="name an empty folder for the data")

    def _accepts_connections(self) -> bool:
        try:
            lines = (self.data_dir / "postmaster.pid").read_text(encoding="ascii").splitlines()
        except FileNotFoundError:
            return False
        # The pid is compared because a crash leaves the file of the previous run.
        return len(lines) > _STATUS_LINE and int(lines[0]) == self.pid and lines[_STATUS_LINE].strip() == "ready"

    def _give(self, folder: Path) -> None:
        if self._user is not None:
            os.chown(folder, self._user.uid, self._user.gid)


def _children_of(pid: int) -> list[int]:
    """Return a process's children (Linux's /proc; elsewhere they end by themselves, a moment later)."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in task.read_text(encoding="ascii").split()]
    return found
