"""The process: `python -m benchmarks.crowd FILE`, a plan. Says `ready`, then obeys and answers a line at a time.

`begin VALUE` notes anew, with everybody having seen this value; `begin VALUE whole` keeps every event instead.
`end FILE` writes what was noted into a file and answers with the seconds of CPU used since `begin`.
"""

import gc
import json
import sys
import time
from pathlib import Path

from benchmarks.crowd.clients import Clients
from benchmarks.crowd.plan import Plan


def main() -> None:
    """Connect, serve, obey, until the pipe is closed."""
    clients = Clients(Plan.from_json(Path(sys.argv[1]).read_text(encoding="utf-8")))
    clients.connect()
    gc.disable()
    _say("ready")
    used = 0.0
    for _ in clients.serve(sys.stdin.fileno()):
        match sys.stdin.readline().split():
            case ["begin", base, *how]:
                clients.begin(int(base), whole=how == ["whole"])
                used = time.process_time()
                _say("begun")
            case ["end", file]:
                used = time.process_time() - used
                _write(clients, Path(file))
                _say(str(used))
            case _:
                return


def _write(clients: Clients, file: Path) -> None:
    if clients.whole:
        events = [[number, at, event.decode()] for number, at, event in clients.notes.events]
        file.write_text(json.dumps(events), encoding="utf-8")
    else:
        file.write_bytes(clients.notes.seen.tobytes())


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
