"""Budget, origins, grants, messages and settings of the gateway."""

from typing import Any

import pytest
from pydantic import ValidationError

from cdc_counter.config.gateway import AuthSettings, GatewaySettings
from cdc_counter.gateway.budget import Budget
from cdc_counter.gateway.grants import Grant, bearer_token
from cdc_counter.gateway.messages import CompactJson, InvalidArgumentError, requested_room
from cdc_counter.gateway.origins import Origins, is_loopback
from cdc_counter.gateway.rooms import RoomKey


def test_budget_allows_a_burst_then_the_rate() -> None:
    budget = Budget(10, 20, now=0.0)
    assert [budget.take(0.0) for _ in range(21)] == [True] * 20 + [False]
    assert [budget.take(0.5) for _ in range(6)] == [True] * 5 + [False]


def test_budget_does_not_save_more_than_a_burst() -> None:
    budget = Budget(10, 20, now=0.0)
    assert sum(budget.take(1e9) for _ in range(100)) == 20


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        (None, "anything", True),
        ("https://desk.example", "counters.example", True),
        ("https://desk.example:444", "counters.example", False),
        ("http://127.0.0.1:8400", "127.0.0.1:8400", True),
        ("http://127.0.0.1:9999", "127.0.0.1:8400", False),
        ("http://localhost:8400", "localhost:8400", True),
        ("http://[::1]:8400", "[::1]:8400", True),
        ("http://10.0.0.5", "10.0.0.5", True),
        ("http://10.0.0.5", "10.0.0.5:80", True),
        ("http://evil.example:8400", "evil.example:8400", False),
        ("http://own.example:8400", "own.example:8400", True),
        ("http://evil.example", None, False),
        ("http://evil.example:x", "evil.example:x", False),
        ("null", "127.0.0.1:8400", False),
        ("", "127.0.0.1:8400", False),
        ("*", "127.0.0.1:8400", False),
    ],
)
def test_origin_must_be_listed_or_certainly_our_own(origin: str | None, host: str | None, allowed: bool) -> None:
    assert Origins(("https://desk.example",), "own.example").allows(origin, host) is allowed


@pytest.mark.parametrize(
    ("host", "known"),
    [("127.0.0.1:8400", True), ("desk.example", True), ("localhost", True), ("evil.example", False), (None, False)],
)
def test_host_names_of_others_are_not_known(host: str | None, known: bool) -> None:
    assert Origins(("https://desk.example",), "127.0.0.1").knows_host(host) is known


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),  # noqa: S104  # judged, not bound
        ("::", False),
        ("192.168.0.1", False),
        ("localhost.evil.example", False),
    ],
)
def test_loopback_is_recognised(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("scopes", "key", "allowed"),
    [
        ({"*": {"42"}}, RoomKey("open", "42"), True),
        ({"*": {"42"}}, RoomKey("open", "43"), False),
        ({"open": {"*"}}, RoomKey("open", "43"), True),
        ({"open": {"*"}}, RoomKey("total", "43"), False),
        ({"open": {"1"}, "*": {"2"}}, RoomKey("open", "2"), True),
        ({}, RoomKey("open", "*"), False),
        ({"*": {"42"}}, RoomKey("*", "42"), True),
        ({"open": {"42"}}, RoomKey("*", "42"), False),
    ],
)
def test_grant_implies_nothing(scopes: dict[str, set[str]], key: RoomKey, allowed: bool) -> None:
    assert Grant({counter: frozenset(texts) for counter, texts in scopes.items()}).allows(key) is allowed


@pytest.mark.parametrize(
    ("header", "token"), [(None, None), ("Bearer abc", "abc"), ("bearer  abc ", "abc"), ("Basic abc", None)]
)
def test_bearer_token_is_found(header: str | None, token: str | None) -> None:
    assert bearer_token(header) == token


@pytest.mark.parametrize("scope", [True, 1.0, [], {}, b"x"])
def test_scope_of_another_type_is_invalid(scope: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        requested_room("open", scope)


@pytest.mark.parametrize("text", ["NaN", "[" * 5000, '"\ud800"', "{'a': 1}", ""])
def test_json_is_parsed_strictly(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        CompactJson.loads(text)


def test_integers_of_any_size_are_written_as_numbers() -> None:
    assert CompactJson.dumps({"a": 2**200}) == f'{{"a":{2**200}}}'


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({}, "either secret or public_key"),
        ({"secret": "x" * 40, "public_key": "pem"}, "either secret or public_key"),
        ({"secret": "short"}, "at least 32 bytes"),
        ({"secret": "x" * 40, "algorithms": ["HS512"]}, "at least 64 bytes"),
        ({"secret": "x" * 40, "algorithms": ["RS256"]}, "secret can only be used with HS256"),
        ({"public_key": "pem"}, "algorithms HS256 need secret"),
        ({"secret": "x" * 40, "algorithms": ["none"]}, "algorithms"),
        ({"secret": "x" * 40, "algorithms": []}, "algorithms"),
        ({"secret": "x" * 40, "claims": "typo"}, "claims"),
    ],
)
def test_contradictory_auth_is_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        AuthSettings.model_validate(settings)


@pytest.mark.parametrize("origin", ["*", "desk.example", "https://desk.example/", "https://Desk.example", "null", ""])
def test_origins_are_what_browsers_send(origin: str) -> None:
    with pytest.raises(ValidationError):
        GatewaySettings.model_validate({"cors_origins": [origin]})


def test_secret_is_not_in_the_repr() -> None:
    settings = GatewaySettings.model_validate({"auth": {"secret": "a secret of at least 32 bytes in length"}})
    assert "at least 32" not in repr(settings)
