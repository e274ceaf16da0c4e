"""Named places in our own code where a test lets the process die, freeze or fail, rather than wait for luck.

Nothing here can be switched on from outside: no option, no variable. A test starts the program through
`tests.rig.failpoints`, which puts something in the place of `reach`; so call it through this module. Otherwise it costs
one empty call a step, never one a row.
"""

from enum import StrEnum


class Failpoint(StrEnum):
    """Where. The order is that of one change's path, then that of an installation, a seed, and an end."""

    AFTER_RECEIVE = "after-receive"
    BEFORE_APPLY = "before-apply"
    AFTER_APPLY = "after-apply"
    AFTER_CONFIRM = "after-confirm"
    BEFORE_EMIT = "before-emit"

    DATABASE_STEP = "database-step"
    READERS_TOLD = "readers-told"
    SLOT_DROPPED = "slot-dropped"
    SLOT_CREATED = "slot-created"
    EPOCH_BEGUN = "epoch-begun"
    COUNTER_KNOWN = "counter-known"
    COUNTER_FORGOTTEN = "counter-forgotten"

    SEED_CLEARED = "seed-cleared"
    SEED_SNAPSHOT = "seed-snapshot"
    SEED_ADDED = "seed-added"
    OLD_SCOPES_DELETED = "old-scopes-deleted"
    SEED_PUBLISHED = "seed-published"
    COUNTER_WRITTEN = "counter-written"

    TALLIES_CLEARED = "tallies-cleared"
    KEYS_DELETED = "keys-deleted"


def reach(point: Failpoint) -> None:
    """Do nothing, unless a test has put something in its place."""
