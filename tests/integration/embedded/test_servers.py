"""The servers that the demo and every other test stand on."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg
import pytest

from cdc_counter.embedded import PostgresServer, RedisServer
from cdc_counter.errors import NotReadyError
from tests.rig.eventually import eventually_sync

_OWNER = """
import sys, time
from cdc_counter.embedded import PostgresServer, RedisServer
postgres, redis = PostgresServer(fsync=False), RedisServer()
postgres.start()
redis.start()
print(postgres.pid, redis.pid, postgres.folder, redis.folder, flush=True)
sys.stdin.read()
"""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").split()[2] != "Z"


def test_committed_rows_survive_a_crash_of_every_postgres_process(postgres: PostgresServer) -> None:
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS survivors")
        connection.execute("CREATE TABLE survivors AS SELECT generate_series(1, 1000)")
    before = postgres.pid
    postgres.kill()
    assert not _alive(before)
    postgres.start()
    assert postgres.pid != before
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM survivors").fetchone() == (1000,)
        connection.execute("DROP TABLE survivors")


def test_postgres_is_ready_for_logical_replication_and_prepared_transactions(postgres: PostgresServer) -> None:
    with psycopg.connect(postgres.dsn()) as connection:
        row = connection.execute(
            "SELECT current_setting('wal_level'), current_setting('max_prepared_transactions')::int,"
            " current_setting('server_encoding'), (SELECT datcollate FROM pg_database WHERE datname = 'postgres')"
        ).fetchone()
    assert row == ("logical", 20, "UTF8", "C.UTF-8")


def test_server_version_is_the_asked_one(postgres18: PostgresServer, postgres15: PostgresServer) -> None:
    assert (postgres18.version[0], postgres15.version[0]) == (18, 15)


def test_data_in_a_named_folder_survives_close(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "data") as server:
        first = server.folder
        _command(server, "SET kept 1")
    assert not first.exists()
    with RedisServer(tmp_path / "data") as server:
        assert _command(server, "GET kept") == "$1\r\n1"


def test_postgres_data_in_a_named_folder_survives_close() -> None:
    with tempfile.TemporaryDirectory() as folder:
        # Run by root, the server is another user, who has to get there.
        Path(folder).chmod(0o755)
        with PostgresServer(Path(folder) / "data", fsync=False) as server:
            first = server.folder
            with psycopg.connect(server.dsn(), autocommit=True) as connection:
                connection.execute("CREATE TABLE kept (k int)")
        assert not first.exists()
        with PostgresServer(Path(folder) / "data", fsync=False) as server, psycopg.connect(server.dsn()) as connection:
            assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_setting_of_several_words_reaches_redis(redis_server: RedisServer) -> None:
    with RedisServer(settings={"replicaof": f"127.0.0.1 {redis_server.port}"}) as replica:
        assert "role:slave" in _command(replica, "INFO replication")


def test_log_of_redis_is_kept(redis_server: RedisServer) -> None:
    assert "Ready to accept connections" in redis_server.log.read_text(encoding="utf-8")


def test_server_that_can_not_start_leaves_no_folder() -> None:
    server = RedisServer(settings={"appendonly": "perhaps"})
    with pytest.raises(NotReadyError, match="argument must be 'yes' or 'no'"), server:
        pass
    assert not server.folder.exists()


def test_redis_has_its_data_after_a_crash(redis_server: RedisServer) -> None:
    _command(redis_server, "CONFIG SET appendfsync always")
    _command(redis_server, "SET kept 2")
    redis_server.kill()
    redis_server.start()
    assert _command(redis_server, "GET kept") == "$1\r\n2"
    _command(redis_server, "FLUSHALL")


def test_servers_and_their_folders_go_when_their_owner_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", _OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        postgres, redis, *folders = owner.stdout.readline().decode().split()
        assert _alive(int(postgres))
        assert _alive(int(redis))
        owner.kill()
    eventually_sync(lambda: not _alive(int(postgres)) and not _alive(int(redis)), "both servers ended")
    eventually_sync(lambda: not any(Path(folder).exists() for folder in folders), "their folders removed")


def test_server_goes_when_only_its_guard_is_killed(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    pid = server.pid
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    guard = next(line for line in status.splitlines() if line.startswith("PPid:")).split()[1]
    os.kill(int(guard), signal.SIGKILL)
    eventually_sync(lambda: not _alive(pid), "the server ended")
    server.close()


def test_start_that_fails_says_why(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = PostgresServer(port=taken.getsockname()[1], fsync=False)
        with pytest.raises(NotReadyError, match="Address already in use"):
            server.start()
        server.close()


def test_pid_of_a_stopped_server_is_refused() -> None:
    server = RedisServer()
    with pytest.raises(NotReadyError, match="is stopped"):
        _ = server.pid
    server.close()


def test_program_that_does_not_exist_is_named() -> None:
    server = RedisServer(program=Path("/does/not/exist"))
    with pytest.raises(NotReadyError, match=r"/does/not/exist: .*No such file"):
        server.start()
    server.close()


def _command(server: RedisServer, text: str) -> str:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(text.encode() + b"\r\n")
        return connection.recv(4096).decode().rstrip()
