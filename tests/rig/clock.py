"""The `cdc-counter` command under a wall clock that jumps an hour ahead or back whenever it is looked at.

`python -m tests.rig.clock run --config ...`: as after a wrong time server, a leap, a machine that was suspended.
"""

import random
import time

_honest = time.time


def jumping() -> float:
    """Return a time that may be an hour off, either way."""
    return _honest() + random.choice((-3600.0, 0.0, 3600.0))


if __name__ == "__main__":
    # Before anything else is loaded: the clock is handed around as a default of parameters.
    setattr(time, "time", jumping)  # noqa: B010 - not for a type checker to follow
    from cdc_counter.cli import main

    main(prog_name="cdc-counter")
