"""What the clients of one server do, as told to their process on its command line."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Plan:
    """`rooms[i]` is what client number i subscribes to: counter and scope, None for the only one.

    `socketio` False: a bare WebSocket, on which the same messages go to and fro. `progress` is a file of two integers
    of 64 bits that the clients keep up to date: the sum of how far each has seen, and how many events arrived.
    """

    port: int
    progress: str
    rooms: list[list[tuple[str, str | None]]] = field(default_factory=list)
    socketio: bool = True

    @property
    def path(self) -> str:
        """Where the WebSocket is."""
        return "/socket.io/?EIO=4&transport=websocket" if self.socketio else "/"

    def to_json(self) -> str:
        """Return one argument."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read it back."""
        told: dict[str, Any] = json.loads(text)
        rooms = [[(counter, scope) for counter, scope in each] for each in told.pop("rooms")]
        return cls(**told, rooms=rooms)


def subscription(number: int, counter: str, scope: str | None) -> str:
    """Return the packet by which a client enters a room and asks for an acknowledgement by this number."""
    body = {"counter": counter} if scope is None else {"counter": counter, "scope": scope}
    return f"42{number}{json.dumps(['subscribe', body], separators=(',', ':'))}"


def value_of(event: bytes) -> int:
    """Return the value of the only bucket, `-`, in an event `tally`; -1 in any other."""
    before, found, after = event.partition(b'"-":')
    if not found or not before.endswith(b'"changes":{'):
        return -1
    return int(after.partition(b"}")[0])
