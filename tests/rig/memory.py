"""The temporary folders of the tests' servers in memory, where this machine has enough of it.

Each of a thousand databases is three hundred files: on a disk, their coming and going would take most of the time.
Nothing here tests a power failure, and after any other crash files in memory are as complete as those on a disk.
"""

import os
import tempfile
from pathlib import Path
from typing import Final

_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it by whoever needs one
_ENOUGH: Final = 8 * 2**30
"""Bytes that must be free in it: a run of all tests uses three gigabytes at once."""


def keep_temporary_files_in_memory() -> None:
    """Have this process and those that it starts make their temporary folders there.

    Pytest's own, which outlive a run, stay where they are.
    """
    if "TMPDIR" in os.environ or not _is_fit(_MEMORY):
        return
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)


def _is_fit(folder: Path) -> bool:
    """Say whether programs run in it and it has room; what counts against it counts against the memory, too."""
    try:
        found = os.statvfs(folder)
    except FileNotFoundError:
        return False
    return not found.f_flag & os.ST_NOEXEC and os.access(folder, os.W_OK) and found.f_bavail * found.f_frsize >= _ENOUGH
