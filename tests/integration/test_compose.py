"""docker-compose.yml without a container engine: what it says is parsed, and the very commands it names are run."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from cdc_counter.cli import main
from cdc_counter.config import load_config
from cdc_counter.embedded import PostgresServer, RedisServer
from cdc_counter.embedded.child import free_port
from tests.rig.daemon import Daemon, command

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def compose() -> Mapping[str, Any]:
    loaded: Mapping[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def services(compose: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = compose["services"]
    return found


@pytest.fixture(scope="module")
def postgres_of_compose(services: Mapping[str, Any]) -> Iterator[PostgresServer]:
    """Embedded PostgreSQL with the flags, the database and the start-up script that the file names."""
    words = services["postgres"]["command"]
    assert words[0] == "postgres"
    assert set(words[1::2]) == {"-c"}
    settings = dict(word.split("=") for word in words[2::2])
    with PostgresServer(settings={"max_prepared_transactions": "0", **settings}, fsync=False) as server:
        name = services["postgres"]["environment"]["POSTGRES_DB"]
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        script = next(v for v in services["postgres"]["volumes"] if "initdb.d" in v).split(":")[0]
        with psycopg.connect(server.dsn(name), autocommit=True) as connection:
            connection.execute((ROOT / script).read_bytes())
        yield server


@pytest.fixture(scope="module")
def redis_of_compose(services: Mapping[str, Any]) -> Iterator[RedisServer]:
    """Embedded Redis with the flags that the file names."""
    words = services["redis"]["command"]
    assert words[0] == "redis-server"
    settings = {name.removeprefix("--"): value for name, value in zip(words[1::2], words[2::2], strict=True)}
    with RedisServer(settings=settings) as server:
        yield server


def test_services_wait_for_what_they_need(services: Mapping[str, Any]) -> None:
    assert services["init"]["depends_on"]["postgres"] == {"condition": "service_healthy"}
    assert services["cdc-counter"]["depends_on"]["init"] == {"condition": "service_completed_successfully"}
    for service in services.values():
        for name, need in service.get("depends_on", {}).items():
            assert name in services
            assert need["condition"] != "service_healthy" or "healthcheck" in services[name]


def test_named_volumes_are_declared_and_mounted_files_exist(compose: Mapping[str, Any]) -> None:
    sources = [v.split(":")[0] for service in compose["services"].values() for v in service.get("volumes", [])]
    for source in sources:
        assert (ROOT / source).is_file() if source.startswith("./") else source in compose["volumes"], source


def test_commands_exist(services: Mapping[str, Any]) -> None:
    for service in ("init", "cdc-counter"):
        name, *options = services[service]["command"]
        main.commands[name].make_context(name, list(options), resilient_parsing=False).close()


def test_mounted_configuration_is_valid_with_the_environment_given(services: Mapping[str, Any]) -> None:
    service = services["cdc-counter"]
    environment = {name: _with_defaults(value) for name, value in service["environment"].items()}
    mounted, target, _ = service["volumes"][0].split(":")
    assert environment["CDC_COUNTER_CONFIG"] == target
    config = load_config(ROOT / mounted, environment)
    assert config.postgres.conninfo == environment["CDC_COUNTER_POSTGRES_DSN"]
    assert [counter.name for counter in config.counters] == ["open_by_channel"]
    published = service["ports"][0].split(":")
    assert published[0] == "127.0.0.1", "without authorisation only this machine may connect"
    assert int(published[2]) == config.gateway.port


def test_password_is_the_same_for_server_and_client(services: Mapping[str, Any]) -> None:
    password = services["postgres"]["environment"]["POSTGRES_PASSWORD"]
    assert f":{password}@" in services["cdc-counter"]["environment"]["CDC_COUNTER_POSTGRES_DSN"]


def test_image_copies_files_that_exist_and_runs_as_nobody_special() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line.startswith("COPY"):
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source
    assert "USER cdc-counter" in lines
    entry = next(line for line in lines if line.startswith("ENTRYPOINT"))
    assert json.loads(entry.removeprefix("ENTRYPOINT ")) == ["cdc-counter"]


def test_init_and_run_work_on_servers_with_these_flags(
    services: Mapping[str, Any], postgres_of_compose: PostgresServer, redis_of_compose: RedisServer, tmp_path: Path
) -> None:
    """One file, the servers it describes, the commands it names, its health check."""
    port = free_port()
    text = (ROOT / "config/compose.toml").read_text(encoding="utf-8")
    config = tmp_path / "cdc-counter.toml"
    config.write_text(text.replace("[gateway]", f"[gateway]\nport = {port}", 1), encoding="utf-8")
    environment = {
        "CDC_COUNTER_POSTGRES_DSN": postgres_of_compose.dsn("helpdesk"),
        "CDC_COUNTER_REDIS_URL": redis_of_compose.url,
    }
    installed = command(*services["init"]["command"], config=config, environment=environment)
    assert installed.returncode == 0, installed.stderr
    with Daemon(
        config, tmp_path / "log", port=port, words=services["cdc-counter"]["command"], environment=environment
    ) as daemon:
        daemon.start().wait_ready()
        probe = [word.replace("8400", str(port)) for word in services["cdc-counter"]["healthcheck"]["test"]]
        assert probe[:2] == ["CMD", "python"]
        assert subprocess.run([sys.executable, *probe[2:]], check=False, env=os.environ).returncode == 0
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/counters/open_by_channel/1", timeout=5) as answer:
            reading = json.load(answer)
        with psycopg.connect(postgres_of_compose.dsn("helpdesk")) as connection:
            rows = connection.execute(
                "SELECT channel_id::text, count(*) FROM conversations WHERE account_id = 1 GROUP BY 1"
            ).fetchall()
        assert reading["values"] == dict(rows)
        assert daemon.terminate() == 0


def _with_defaults(value: str) -> str:
    """Replace ${NAME:-default} as Compose does when NAME is not set."""
    return re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", value)
