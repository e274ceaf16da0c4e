"""The shapes on the wire, and the JSON module for them.

Integers go out as JSON numbers whatever their size; a reader in JavaScript sees them exactly up to 2**53.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from cdc_counter.core.definition import NO_KEY
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.reading import Reading, VerifiedAt
from cdc_counter.gateway.rooms import Room, RoomKey

NOT_FOUND: Final = "not found"
"""Unknown and forbidden alike: an answer that told them apart would name other people's counters."""
UNAVAILABLE: Final = "unavailable"
TOO_MANY: Final = "too many subscriptions"

_LONGEST_NAME: Final = 48
_LONGEST_SCOPE: Final = 4096


class InvalidArgumentError(ValueError):
    """What a client sent can't be understood; the text may be shown to it."""


class CompactJson:
    """`dumps` and `loads` as python-socketio wants them."""

    @staticmethod
    def dumps(value: Any, **_options: object) -> str:
        """Return compact JSON text."""
        return dump_bytes(value).decode()

    @staticmethod
    def loads(text: str | bytes) -> Any:
        """Parse strictly; raises ValueError, also for nesting that would exhaust the stack."""
        return orjson.loads(text)


def dump_bytes(value: Any) -> bytes:
    """Return compact JSON in UTF-8."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        # Only 64-bit integers are known to orjson.
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def requested_room(counter: object, scope: object) -> RoomKey:
    """Return the room a client names, an absent scope as `-`; raises InvalidArgumentError."""
    if not isinstance(counter, str) or not 0 < len(counter) <= _LONGEST_NAME:
        raise InvalidArgumentError("counter must be a name")
    if scope is None:
        return RoomKey(counter, NO_KEY)
    # bool is an int to Python, and nobody's scope.
    if isinstance(scope, int) and not isinstance(scope, bool):
        return RoomKey(counter, str(scope))
    if not isinstance(scope, str) or len(scope) > _LONGEST_SCOPE:
        raise InvalidArgumentError(f"scope must be a text of at most {_LONGEST_SCOPE} characters, or an integer")
    return RoomKey(counter, scope)


def subscription_room(arguments: tuple[object, ...]) -> RoomKey:
    """Return the room named by an event's arguments; raises InvalidArgumentError."""
    if len(arguments) != 1 or not isinstance(arguments[0], dict):
        raise InvalidArgumentError("one object {counter, scope} is expected")
    return requested_room(arguments[0].get("counter"), arguments[0].get("scope"))


def scope_named(arguments: tuple[object, ...]) -> bool:
    """Say whether an event's arguments, which name a room, name a scope."""
    return isinstance(arguments[0], dict) and arguments[0].get("scope") is not None


def invalid(error: InvalidArgumentError) -> dict[str, str]:
    """Return the acknowledgement of what could not be understood."""
    return {"error": "invalid", "reason": str(error)}


def snapshot_of(source: Room | Reading) -> dict[str, Any]:
    """Return the whole of one scope: the acknowledgement of `subscribe`, the event `reset`, the HTTP body."""
    key = source.key if isinstance(source, Room) else RoomKey(source.counter, source.scope)
    return {
        "counter": key.counter,
        "scope": key.scope,
        "values": dict(source.values),
        "version": source.version.version,
        "state": source.state.value,
        "epoch": source.epoch,
        "scale": source.scale,
        "verified_at": _proof(source.verified_at),
    }


def _proof(verified_at: VerifiedAt | None) -> dict[str, str] | None:
    if verified_at is None:
        return None
    return {"time": datetime.fromtimestamp(verified_at.time, UTC).isoformat(), "lsn": verified_at.lsn}


def changes_of(key: RoomKey, changes: Mapping[str, int], version: Lsn) -> dict[str, Any]:
    """Return the event `tally`: absolute values of some buckets, 0 for gone."""
    return {"counter": key.counter, "scope": key.scope, "changes": changes, "version": version.version}
