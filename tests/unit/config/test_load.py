"""What a configuration file may hold, and how each mistake is told."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from cdc_counter.config import Config, load_config
from cdc_counter.core.definition import CounterDefinition
from cdc_counter.errors import ConfigError, ExitCode

Load = Callable[..., Config]


@pytest.fixture
def loaded(tmp_path: Path) -> Load:
    def load(text: str, environ: Mapping[str, str] | None = None) -> Config:
        path = tmp_path / "cdc-counter.toml"
        path.write_text(text, encoding="utf-8")
        return load_config(path, environ or {})

    return load


@pytest.fixture
def complaint(loaded: Load) -> Callable[..., list[str]]:
    """Load a bad file and return the lines of the error, without the path in front."""

    def load(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            loaded(text, environ)
        assert caught.value.exit_code is ExitCode.USAGE
        lines = str(caught.value).splitlines()
        return [line.partition("cdc-counter.toml: ")[2] or line for line in lines]

    return load


Complaint = Callable[..., list[str]]


def test_empty_file_means_every_default(loaded: Load) -> None:
    config = loaded("")
    assert config.postgres.conninfo == ""
    assert config.redis.url == "redis://localhost:6379/0"
    assert (config.postgres.schema_name, config.gateway.port, config.counters) == ("cdc_counter", 8400, ())


def test_counter_becomes_a_definition(loaded: Load) -> None:
    config = loaded(
        """
        [[counter]]
        name = "amount_by_shop"
        table = 'shop."Order"'
        where = " status = 'paid' "
        scope = "account_id"
        by = ["shop_id", "currency"]
        measure = "SUM( amount )"
        """
    )
    assert config.counters == (
        CounterDefinition(
            name="amount_by_shop",
            table='shop."Order"',
            where="status = 'paid'",
            scope=("account_id",),
            by=("shop_id", "currency"),
            sum_of="amount",
        ),
    )


def test_admin_dsn_defaults_to_dsn(loaded: Load) -> None:
    assert loaded('[postgres]\ndsn = "host=db"').postgres.admin_conninfo == "host=db"
    assert (
        loaded('[postgres]\ndsn = "host=db"\nadmin_dsn = "host=db user=o"').postgres.admin_conninfo == "host=db user=o"
    )


def test_environment_overrides_the_file(loaded: Load) -> None:
    config = loaded(
        '[postgres]\ndsn = "host=file"\n[gateway.auth]\nsecret = "too short"',
        {
            "CDC_COUNTER_POSTGRES_DSN": "host=env",
            "CDC_COUNTER_POSTGRES_ADMIN_DSN": "host=admin",
            "CDC_COUNTER_REDIS_URL": "rediss://:pw@redis.example:6380/2",
            "CDC_COUNTER_JWT_SECRET": "s" * 32,
        },
    )
    assert config.postgres.conninfo == "host=env"
    assert config.postgres.admin_conninfo == "host=admin"
    assert config.redis.url == "rediss://:pw@redis.example:6380/2"
    assert config.gateway.auth is not None
    assert config.gateway.auth.secret is not None
    assert config.gateway.auth.secret.get_secret_value() == "s" * 32


def test_empty_variable_counts_as_not_set(loaded: Load) -> None:
    assert loaded('[postgres]\ndsn = "host=file"', {"CDC_COUNTER_POSTGRES_DSN": ""}).postgres.conninfo == "host=file"


def test_complaint_about_an_override_names_the_variable(complaint: Complaint) -> None:
    assert complaint("", {"CDC_COUNTER_REDIS_URL": "http://u:hunter2@h"}) == [
        '$CDC_COUNTER_REDIS_URL = "http://u:***@h": must start with redis://, rediss:// (TLS) or unix://'
    ]


def test_all_mistakes_of_a_file_are_told_at_once(complaint: Complaint) -> None:
    lines = complaint(
        """
        [stream]
        max_batch_keys = 0
        [outbox]
        keep_hours = 7
        [[counter]]
        name = "a"
        table = "t"
        [[counter]]
        name = "a"
        table = "t"
        """
    )
    assert lines == [
        "stream.max_batch_keys = 0: must be at least 1",
        "outbox.keep_hours = 7: must be at most 6",
        "counter[2] 'a': name = \"a\": is taken by an earlier counter; names must differ",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[coutner]]\nname = 'a'", "unknown section [coutner]; did you mean 'counter'?"),
        ("[gatewy]\nport = 1", "unknown section [gatewy]; did you mean 'gateway'?"),
        ("dsn = 'x'", "unknown key 'dsn'; known here: postgres, redis, stream, outbox, verify, gateway, counter"),
        ("[postgres]\nshema = 'x'", "postgres: unknown key 'shema'; did you mean 'schema'?"),
        ("[postgres]\nschema_nam = 'x'", "postgres: unknown key 'schema_nam'; did you mean 'schema'?"),
        ("[gateway]\nPort = 1", "gateway: unknown key 'Port'; did you mean 'port'?"),
        ("[gateway.auth]\nsecrte = 'x'", "gateway.auth: unknown key 'secrte'; did you mean 'secret'?"),
        (
            "[[counter]]\nname='a'\ntable='t'\nwehre='x'",
            "counter[1] 'a': unknown key 'wehre'; did you mean 'where'?",
        ),
    ],
)
def test_near_miss_is_suggested(complaint: Complaint, text: str, expected: str) -> None:
    assert expected in complaint(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgres = 3", "postgres = 3: must be a section of its own, such as [postgres]"),
        ("counter = 4", "counter = 4: must be written [[counter]], in double brackets"),
        ("[counter]\nname = 'a'", "counter: must be written [[counter]], in double brackets"),
        ("[postgres]\nconnect_timeout = '5'", 'postgres.connect_timeout = "5": must be a whole number'),
        ("[postgres]\nconnect_timeout = true", "postgres.connect_timeout = true: must be a whole number"),
        ("[postgres]\nconnect_timeout = 2.5", "postgres.connect_timeout = 2.5: must be a whole number"),
        ("[postgres]\nfailover = 'yes'", 'postgres.failover = "yes": must be "auto", true or false'),
        ("[postgres]\nfailover = 1", 'postgres.failover = 1: must be "auto", true or false'),
        ("[postgres]\nslot = 3", "postgres.slot = 3: must be text in quotes"),
        (
            "[postgres]\nslot = 'Slot'",
            'postgres.slot = "Slot": must be 1 to 63 lower-case letters, digits and _, not starting with a digit',
        ),
        (
            "[postgres]\nschema = 'public'",
            (
                'postgres.schema = "public": must be a schema of its own: '
                "'cdc-counter drop' removes it with everything in it"
            ),
        ),
        (
            "[postgres]\nschema = 'pg_mine'",
            'postgres.schema = "pg_mine": must not start with pg_, which PostgreSQL keeps for itself',
        ),
        (
            "[postgres]\ndsn = ''",
            'postgres.dsn = "": must not be empty; leave the key out to use libpq\'s PG* variables',
        ),
        (
            "[postgres]\ndsn = 'localhost'",
            (
                'postgres.dsn = "localhost": must be a postgresql:// URL or libpq\'s key=value form, '
                "such as 'host=db dbname=shop'"
            ),
        ),
        ("[stream]\nheartbeat_seconds = 0", "stream.heartbeat_seconds = 0: must be greater than 0"),
        ("[stream]\nheartbeat_seconds = inf", "stream.heartbeat_seconds = Infinity: must be a finite number"),
        ("[redis]\nurl = 'redis://'", 'redis.url = "redis://": must name a host, such as redis://localhost:6379/0'),
        (
            "[redis]\nurl = 'redis://h/db'",
            'redis.url = "redis://h/db": must end in a database number, such as /0',
        ),
        ("[redis]\nurl = 'redis://h:99999'", 'redis.url = "redis://h:99999": must have a port between 1 and 65535'),
        ("[redis]\nprefix = 'a b'", 'redis.prefix = "a b": must be text without spaces and control characters'),
        ("[redis]\nprefix = '{}'", "redis.prefix = \"{}\": must hold at most one hash tag, such as '{cdc}'"),
        ("[[counter]]\nname = 'a'", "counter[1] 'a': table: is missing"),
        ("[[counter]]\ntable = 't'", "counter[1]: name: is missing"),
        (
            "[[counter]]\nname = 'a'\ntable = 'a.b.c'",
            'counter[1] \'a\': table = "a.b.c": must be a table\'s name, such as orders, shop.orders or shop."Order"',
        ),
        (
            "[[counter]]\nname = 'a'\ntable = 't; drop table t'",
            (
                "counter[1] 'a': table = \"t; drop table t\": must be a table's name, such as orders, shop.orders "
                'or shop."Order"'
            ),
        ),
        (
            "[[counter]]\nname = 'a'\ntable = 't'\nby = []",
            "counter[1] 'a': by = []: must be one SQL expression or a list of them",
        ),
        (
            "[[counter]]\nname = 'a'\ntable = 't'\nby = ['x', ' ']",
            "counter[1] 'a': by[2] = \" \": must be an SQL expression over the table's columns",
        ),
        (
            "[[counter]]\nname = 'a'\ntable = 't'\nmeasure = 'avg(x)'",
            "counter[1] 'a': measure = \"avg(x)\": measure must be 'count' or 'sum(expression)', not 'avg(x)'",
        ),
        (
            "[[counter]]\nname = 'outbox'\ntable = 't'",
            (
                "counter[1] 'outbox': name = \"outbox\": counter name 'outbox' is reserved; "
                "taken names are counters, heartbeat, ledger, outbox"
            ),
        ),
    ],
)
def test_mistake_is_told_with_key_value_and_constraint(complaint: Complaint, text: str, expected: str) -> None:
    assert complaint(text) == [expected]


def test_syntax_error_names_line_and_column(complaint: Complaint) -> None:
    assert complaint("[redis]\nurl = \n") == ["not valid TOML: invalid value (at line 2, column 7)"]


def test_file_in_another_encoding_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes(b'[redis]\nprefix = "caf\xe9"\n')
    with pytest.raises(ConfigError, match="not UTF-8 at byte 21"):
        load_config(path, {})


def test_every_line_names_the_file(loaded: Load, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded("a = 1\nb = 2")
    assert all(line.startswith(f"{tmp_path}/cdc-counter.toml: ") for line in str(caught.value).splitlines())


@pytest.mark.parametrize(
    "text",
    [
        '[postgres]\ndsn = "mysql://me:hunter2@h/x"',
        '[postgres]\ndsn = "postgresql://me:hunter2@h/x"\nslot = "BAD"',
        '[postgres]\ndsn = "host = db password=hunter2"\nslot = "BAD"',
        '[redis]\nurl = "http://:hunter2@h"',
        '[gateway.auth]\nsecret = "hunter2"',
        '[gateway.auth]\nsecret = "hunter2"\naudience = 3',
        '[gateway]\nauth = "hunter2"',
        '[gateway.auth]\npublic_key = "k"\nsecret = "hunter2"',
    ],
)
def test_no_complaint_shows_a_secret(loaded: Load, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(text)
    assert "hunter2" not in f"{caught.value} {caught.value.hint} {caught.value.__cause__!r}"


def test_representation_of_a_configuration_shows_no_secret(loaded: Load) -> None:
    config = loaded(
        '[postgres]\ndsn = "postgresql://me:hunter2@h/x"\nadmin_dsn = "password=hunter2"\n'
        '[redis]\nurl = "redis://:hunter2@h"\n[gateway.auth]\nsecret = "hunter2hunter2hunter2hunter2hunter2"'
    )
    assert "hunter2" not in repr(config)


def test_configuration_without_counters_can_be_dropped_but_not_installed(loaded: Load) -> None:
    with pytest.raises(ConfigError, match="no counter is declared"):
        loaded("").require_counters()


def test_values_cannot_be_changed_after_loading(loaded: Load) -> None:
    config = loaded("")
    with pytest.raises(ValueError, match="frozen"):
        config.postgres.slot = "other"
