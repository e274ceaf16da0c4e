"""Runs one server and ends it when its owner goes away, even by SIGKILL.

Started as a script by `cdc_counter.embedded.child`, never imported. Standard input is a pipe that the owner
holds open: end of file means that the owner is gone, so the server gets SIGNAL and, once it has ended, the
folders REMOVE are deleted. A pipe, because the kernel's parent-death signal follows the *thread* that
forked, and a thread pool's threads end early.

usage: guard.py '{"command": [...], "user": [uid, gid] or null, "signal": 3, "remove": [...]}'
"""

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PATIENCE_SECONDS = 5.0
"""How long a server may take to end by itself; an immediate shutdown takes well under a second."""


def execute(command: list[str], user: list[int] | None, parent_death_signal: int) -> None:
    """Become the server; returns never. This process, the forked child, has a single thread."""
    # Standard input and output are the guard's pipes to the owner; the server has its log, and nothing to read.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    if user is not None:
        os.setgroups([])
        os.setgid(user[1])
        os.setuid(user[0])
    # Should the guard itself be killed. After setuid, which clears the setting; Linux only, elsewhere the
    # pipe must do.
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, parent_death_signal)
    os.execv(command[0], command)  # noqa: S606  a fixed program with a list of arguments


def ended(pid: int, *, wait: bool = False) -> int | None:
    """Return the exit code once the server has ended, None while it runs."""
    found, status = os.waitpid(pid, 0 if wait else os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def wait_for_either(pid: int) -> int | None:
    """Return the server's exit code, or None when the owner is gone."""
    # A byte arrives in the pipe for every SIGCHLD, so that one poll waits for both.
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write)
    poll = select.poll()
    poll.register(0, select.POLLIN | select.POLLHUP)
    poll.register(wake_read, select.POLLIN)
    while (code := ended(pid)) is None:
        ready = dict(poll.poll())
        if wake_read in ready:
            os.read(wake_read, 512)
        elif not os.read(0, 1):
            return None
    return code


def end(pid: int, first: int) -> None:
    """Ask with the signal `first`, insist with SIGKILL."""
    os.kill(pid, first)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while ended(pid) is None:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            ended(pid, wait=True)
            return
        time.sleep(0.01)


def main() -> int:
    """Run the server, tell the owner its pid, wait; returns the exit code."""
    job = json.loads(sys.argv[1])
    pid = os.fork()
    if pid == 0:
        try:
            execute(job["command"], job["user"], job["signal"])
        except OSError as error:
            os.write(2, f"{job['command'][0]}: {error}\n".encode())
        finally:
            os._exit(127)
    os.write(1, f"{pid}\n".encode())
    os.close(1)
    code = wait_for_either(pid)
    if code is None:
        end(pid, job["signal"])
        for folder in job["remove"]:
            shutil.rmtree(folder, ignore_errors=True)
        return 0
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
