"""PostgreSQL's own programs beside a server of the tests, run as the user that owns its files."""

import subprocess
from typing import Any

from cdc_counter.embedded import PostgresServer
from cdc_counter.embedded.binaries import runnable_bin_dir, server_user


def run_program(server: PostgresServer, name: str, *words: object) -> str:
    """Run a program of this server's version in its folder, which must succeed; returns what it wrote."""
    user = server_user()
    switched: dict[str, Any] = {} if user is None else {"user": user.uid, "group": user.gid, "extra_groups": []}
    program = runnable_bin_dir(server.bin_dir, user, server.folder) / name
    done = subprocess.run(
        [program, *map(str, words)], capture_output=True, text=True, check=False, cwd=server.folder, **switched
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return str(done.stdout)


def copy_server(source: PostgresServer, target: PostgresServer, *options: str) -> None:
    """Make `target`, which is stopped and has no data, a copy of `source`, which runs."""
    where = ["-h", "127.0.0.1", "-p", source.port, "-U", "postgres", "-D", target.data_dir]
    run_program(target, "pg_basebackup", *where, "--checkpoint=fast", "--no-sync", *options)
