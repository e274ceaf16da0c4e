"""A primary and its standby, and one address that leads to whichever of them is the primary now.

The standby streams through a link of its own, which can be held so that it falls behind. A failover kills the primary,
promotes the standby and moves the address; then `build_standby` makes the old primary the standby of the new one, so
that one pair fails over as often as a test wants.
"""

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Final, Self

import psycopg

from cdc_counter.embedded import PostgresServer
from tests.fault.link import Link, fault_link
from tests.rig.eventually import eventually_sync
from tests.rig.programs import copy_server

_PHYSICAL_SLOT: Final = "standby"


class StandbyPair:
    """Two PostgreSQL 18. `guarded`: the primary sets `synchronized_standby_slots`. A context manager."""

    def __init__(self, *, guarded: bool = True, settings: Mapping[str, str] | None = None) -> None:
        self._guarded = guarded
        self._settings = dict(settings or {})
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack:
            self.primary, self.standby = (PostgresServer(fsync=False) for _ in range(2))
            for server in (self.primary, self.standby):
                self._stack.callback(server.close)
            self.address: Link = self._stack.enter_context(fault_link(self.primary.port))
            self.copying: Link = self._stack.enter_context(fault_link(self.primary.port))
            for server in (self.primary, self.standby):
                # What only a standby looks at stands on both, for they change places.
                server.settings |= {
                    "primary_conninfo": f"host=127.0.0.1 port={self.copying.port} user=postgres dbname=postgres",
                    "primary_slot_name": _PHYSICAL_SLOT,
                    "sync_replication_slots": "on",
                    "hot_standby_feedback": "on",
                    "wal_retrieve_retry_interval": "100ms",
                    **self._settings,
                }
            self.primary.start()
            self.build_standby()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def dsn(self, dbname: str = "postgres") -> str:
        """Return a connection string that leads to the primary of the moment."""
        return f"postgresql://postgres@127.0.0.1:{self.address.port}/{dbname}"

    def build_standby(self) -> None:
        """Copy the primary, and return once the copy follows it. What was on the standby before is gone."""
        self.standby.stop("immediate")
        shutil.rmtree(self.standby.data_dir, ignore_errors=True)
        # Not in the copy: whoever is promoted has no standby yet that its consumers could wait for.
        _execute(self.primary, "ALTER SYSTEM RESET synchronized_standby_slots")
        _execute(self.primary, "SELECT pg_reload_conf()")
        if not _execute(
            self.primary, f"SELECT slot_name FROM pg_replication_slots WHERE slot_name = '{_PHYSICAL_SLOT}'"
        ):
            _execute(self.primary, f"SELECT pg_create_physical_replication_slot('{_PHYSICAL_SLOT}', true)")
        self.copying.pass_on()
        self.copying.switch(self.primary.port)
        copy_server(self.primary, self.standby, "--write-recovery-conf")
        self.standby.start()
        self.wait_caught_up()
        if self._guarded:
            _execute(self.primary, f"ALTER SYSTEM SET synchronized_standby_slots = '{_PHYSICAL_SLOT}'")
            _execute(self.primary, "SELECT pg_reload_conf()")

    def wait_caught_up(self) -> None:
        """Wait until the standby has everything that is on the primary now."""
        ((goal,),) = _execute(self.primary, "SELECT pg_current_wal_flush_lsn()::text")
        replayed = f"SELECT pg_last_wal_replay_lsn() >= '{goal}'"
        eventually_sync(lambda: _execute(self.standby, replayed) == [(True,)], f"replayed to {goal}", deadline=60)

    def wait_slot_synced(self, slot: str = "cdc_counter") -> None:
        """Wait until the standby could go on with this slot; a consumer must be moving it."""
        found = (
            "SELECT slot_name FROM pg_replication_slots WHERE slot_name = %s AND synced AND NOT temporary"
            " AND invalidation_reason IS NULL"
        )

        def synced() -> bool:
            # A slot can be copied once its position is younger than the standby: it moves from one of these to the
            # next, and without this the server writes one in 15 s.
            _execute(self.primary, "SELECT pg_log_standby_snapshot()")
            return bool(_execute(self.standby, found, slot))

        eventually_sync(synced, f"slot {slot} is on the standby", deadline=60)

    def fail_over(self) -> None:
        """Crash the primary and let the standby take its place and the address."""
        self.primary.kill()
        self.promote()

    def promote(self) -> None:
        """Let the standby take the primary's place and the address, whatever the primary does."""
        _execute(self.standby, "SELECT pg_promote(true, 60)")
        self.primary, self.standby = self.standby, self.primary
        self.address.switch(self.primary.port)


def _execute(server: PostgresServer, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []
