"""What the writers are told to do, as one line to their process."""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Task:
    """Insert into a table at a rate, and write every commit into a file.

    `base` rows are in each of `rooms` rooms to begin with, before what this process has added. `probes` is a socket
    that is told of every so-manieth commit as it returns.
    """

    dsn: str
    table: str
    rooms: int
    base: int
    rate: float
    seconds: float
    file: str
    probes: str = ""
    probe_every: int = 1

    def to_json(self) -> str:
        """Return one line."""
        return json.dumps(asdict(self))
