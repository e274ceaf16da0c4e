"""`cdc-counter demo` as a process, and its page as a person sees it."""

import re
import signal
import subprocess
import tomllib
from pathlib import Path
from typing import Self

from playwright.async_api import Page

from tests.rig.daemon import PROGRAM
from tests.rig.eventually import eventually, eventually_sync

PATIENCE = 60.0


class Showcase:
    """A demo that runs on a free port. A context manager: killed at the end if it still runs."""

    def __init__(self, log: Path, port: int = 0) -> None:
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [PROGRAM, "demo", "--port", str(port)], stdout=output, stderr=output, stdin=subprocess.DEVNULL
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def text(self) -> str:
        """Return what it has printed."""
        return self._log.read_text(encoding="utf-8")

    def wait_shown(self) -> Self:
        """Wait until it has printed its URL, and everything a person is told."""

        def explained() -> bool:
            assert self.process.poll() is None, f"the demo ended: {self.text()}"
            return "Ctrl-C" in self.text()

        eventually_sync(explained, "the demo answers", deadline=PATIENCE)
        return self

    @property
    def url(self) -> str:
        """The page's address, as printed."""
        return self._found(r"http://127\.0\.0\.1:\d+/")

    @property
    def config(self) -> Path:
        """The configuration file, as printed."""
        return Path(self._found(r"/\S+/demo\.toml"))

    @property
    def dsn(self) -> str:
        """Where the helpdesk is, as printed."""
        return self._found(r"postgresql://\S+")

    @property
    def redis_url(self) -> str:
        """Where the tallies are."""
        url: str = tomllib.loads(self.config.read_text(encoding="utf-8"))["redis"]["url"]
        return url

    def interrupt(self) -> int:
        """Press Ctrl-C and wait; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)

    def _found(self, pattern: str) -> str:
        match = re.search(pattern, self.text())
        assert match is not None, f"no {pattern} in {self.text()}"
        return match[0]


def processes_of(pid: int) -> set[int]:
    """Return all descendants of a process."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found = {pid}
    while grown := {child for child, parent in parents.items() if parent in found} - found:
        found |= grown
    return found - {pid}


def alive(pids: set[int]) -> set[int]:
    """Return those that have not ended; a zombie has."""
    return {pid for pid in pids if _state(pid) not in {"", "Z"}}


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return ""


class DemoPage:
    """The page in a browser."""

    def __init__(self, page: Page) -> None:
        self.page = page

    @classmethod
    async def open(cls, page: Page, url: str) -> Self:
        """Open it and wait until a recount agreed."""
        await page.goto(url)
        opened = cls(page)
        await opened.wait_verdict("equal")
        return opened

    async def wait_verdict(self, verdict: str) -> None:
        """Wait for what the page says of all its numbers: equal, drift or pending."""
        await self.page.wait_for_selector(f"#verdict[data-verdict={verdict}]", timeout=PATIENCE * 1000)

    async def numbers(self) -> dict[str, int]:
        """Return each row's live number, by list and bucket."""
        read: dict[str, int] = await self.page.evaluate(
            """() => Object.fromEntries([...document.querySelectorAll(".row")].map((row) => [
                `${row.parentElement.id} ${row.dataset.bucket}`,
                Number(row.querySelector(".live").textContent.replaceAll(",", "")),
            ]))"""
        )
        return read

    async def total(self) -> int:
        """Return the number of open conversations shown at the top."""
        return int((await self.page.inner_text("#total")).replace(",", ""))

    async def pause_traffic(self) -> None:
        """Press the button and wait until nothing is on its way any more."""
        await self.page.click("text=Pause traffic")
        await self.page.wait_for_selector("text=Resume traffic")
        before = await self.numbers()

        async def still() -> bool:
            nonlocal before
            now = await self.numbers()
            same, before = now == before, now
            return same

        await self.next_recounts(2)
        await eventually(still, "the numbers stand still")

    async def resume_traffic(self) -> None:
        """Press the button again and wait until it is done: a page that is closed takes its question back."""
        await self.page.click("text=Resume traffic")
        await self.page.wait_for_selector("text=Pause traffic")

    async def next_recounts(self, count: int) -> None:
        """Wait until the page has been told of `count` more recounts."""
        for _ in range(count):
            async with self.page.expect_response(re.compile("/demo/recount"), timeout=PATIENCE * 1000):
                pass
