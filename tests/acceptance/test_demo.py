"""What somebody who tries the demo sees: real browser, real servers, the daemon killed."""

import re
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Playwright, async_playwright

from tests.acceptance.showcase import DemoPage, Showcase, alive, processes_of
from tests.rig.browser import launched
from tests.rig.eventually import eventually, eventually_sync
from tests.rig.javascript import BrowserProgram

in_one_loop = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def showcase(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Showcase]:
    with Showcase(tmp_path_factory.mktemp("demo") / "log") as started:
        yield started.wait_shown()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def playwright() -> AsyncIterator[Playwright]:
    """Start the driver once: it takes longer to start than a browser does."""
    async with async_playwright() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def browser(playwright: Playwright, browser_program: BrowserProgram) -> AsyncIterator[Browser]:
    """Start a headless Chromium."""
    async with await launched(playwright, browser_program) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def demo(browser: Browser, showcase: Showcase) -> AsyncIterator[DemoPage]:
    """Open the page on account 1; an error that it raises fails the test."""
    page = await browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield await DemoPage.open(page, showcase.url)
    await page.close()
    assert errors == []


@pytest_asyncio.fixture(loop_scope="module")
async def quiet(demo: DemoPage) -> AsyncIterator[DemoPage]:
    """Open the page while nobody but the test changes anything."""
    await demo.pause_traffic()
    yield demo
    await demo.resume_traffic()


@in_one_loop
async def test_numbers_move_without_a_reload(demo: DemoPage) -> None:
    await demo.page.evaluate("window.loadedOnce = true")
    before = await demo.numbers()

    async def moved() -> int:
        now = await demo.numbers()
        return sum(now[name] != number for name, number in before.items())

    await eventually(moved, "five numbers moved", until=lambda count: count >= 5)
    assert await demo.page.evaluate("window.loadedOnce") is True


@in_one_loop
async def test_numbers_on_the_screen_are_those_of_the_table(quiet: DemoPage, showcase: Showcase) -> None:
    with psycopg.connect(showcase.dsn) as connection:
        rows = connection.execute(
            "SELECT 'open_by_channel ' || channel_id, count(*) FROM helpdesk.conversations"
            " WHERE account_id = 1 AND status = 'open' GROUP BY channel_id"
            " UNION ALL SELECT 'open_by_tag ' || tag, count(*) FROM helpdesk.conversations, unnest(tags) AS tag"
            " WHERE account_id = 1 AND status = 'open' GROUP BY tag"
        ).fetchall()
    shown = await quiet.numbers()
    assert {name: shown.get(name) for name, _ in rows} == dict(rows)


@in_one_loop
async def test_no_recount_ever_differs_under_traffic(demo: DemoPage) -> None:
    """Every verdict that was shown is kept by the page; a red one that lasts a moment counts, too."""
    await demo.page.evaluate(
        """() => {
            window.verdicts = [];
            new MutationObserver(() => window.verdicts.push(document.getElementById("verdict").dataset.verdict))
                .observe(document.getElementById("verdict"), { attributes: true });
        }"""
    )
    await demo.next_recounts(8)
    verdicts = await demo.page.evaluate("window.verdicts")
    assert verdicts.count("equal") >= 5
    assert "drift" not in verdicts


@in_one_loop
async def test_close_takes_a_hundred_off_at_once(quiet: DemoPage) -> None:
    before = await quiet.total()
    await quiet.page.click("[data-action=close]")
    await eventually(quiet.total, "a hundred fewer", until=lambda total: total == before - 100)
    await quiet.wait_verdict("equal")


@in_one_loop
async def test_roll_back_moves_no_number_for_a_moment(quiet: DemoPage) -> None:
    await quiet.page.evaluate(
        """() => {
            window.moves = 0;
            const count = (records) => { window.moves += records.length; };
            for (const live of document.querySelectorAll(".live")) {
                new MutationObserver(count).observe(live, { childList: true, characterData: true, subtree: true });
            }
        }"""
    )
    await quiet.page.click("[data-action=roll-back]")
    await quiet.page.wait_for_selector("text=then ROLLBACK (500 rows)")
    # A commit after it has arrived: whatever the rolled back transaction had sent would have arrived before.
    before = await quiet.total()
    assert await quiet.page.evaluate("window.moves") == 0
    await quiet.page.click("[data-action=close]")
    await eventually(quiet.total, "the commit after it arrived", until=lambda total: total == before - 100)


@in_one_loop
@pytest.mark.parametrize("action", ["assign", "side-door", "reopen"])
async def test_button_changes_numbers_and_the_recount_agrees(quiet: DemoPage, action: str) -> None:
    await quiet.page.click("[data-action=close]")
    await quiet.next_recounts(2)
    before = await quiet.numbers()
    await quiet.page.click(f"[data-action={action}]")

    async def moved() -> bool:
        return await quiet.numbers() != before

    await eventually(moved, "a number moved")
    await quiet.next_recounts(2)
    await quiet.wait_verdict("equal")


@in_one_loop
async def test_buttons_work_with_the_keyboard(quiet: DemoPage) -> None:
    before = await quiet.total()
    await quiet.page.focus("[data-action=close]")
    await quiet.page.keyboard.press("Enter")
    await eventually(quiet.total, "a hundred fewer", until=lambda total: total == before - 100)


@in_one_loop
async def test_tag_made_of_markup_is_text_on_the_screen(quiet: DemoPage, showcase: Showcase) -> None:
    tag = "<img src=x onerror=document.title='owned'>"
    with psycopg.connect(showcase.dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO helpdesk.conversations (account_id, channel_id, subject, tags) VALUES (1, 101, '', ARRAY[%s])",
            [tag],
        )
        await quiet.page.wait_for_selector("#open_by_tag .name >> text=onerror")
        assert await quiet.page.inner_text("#open_by_tag li:last-child .name") == tag
        assert await quiet.page.title() == "cdc-counter demo"
        connection.execute("DELETE FROM helpdesk.conversations WHERE tags = ARRAY[%s]", [tag])
    await quiet.wait_verdict("equal")


@in_one_loop
async def test_accounts_have_their_own_numbers(demo: DemoPage) -> None:
    await demo.page.select_option("#account", "2")
    await demo.next_recounts(2)
    await demo.wait_verdict("equal")
    assert "Farid Rahimi" in await demo.page.inner_text("#open_by_teammate")
    assert {name.split()[1][0] for name in await demo.numbers() if name.startswith("open_by_channel")} == {"2"}


@in_one_loop
async def test_a_tally_that_is_off_by_one_turns_red_and_back(demo: DemoPage, showcase: Showcase) -> None:
    _redis(showcase, b"HINCRBY demo:tally:open_by_tag:1 vip 1")
    await demo.wait_verdict("drift")
    assert await demo.page.locator(".truth[data-verdict=drift]").count() == 1
    assert "open_by_tag vip" in await demo.page.inner_text("#evidence")
    _redis(showcase, b"HINCRBY demo:tally:open_by_tag:1 vip -1")
    await demo.wait_verdict("equal")


@in_one_loop
async def test_page_is_right_again_after_the_daemon_was_killed(demo: DemoPage, showcase: Showcase) -> None:
    """Killed with SIGKILL; the table changes while it is away; the page is never loaded again."""
    await demo.page.evaluate("window.loadedOnce = true")
    restarts = showcase.text().count("It is started again")
    await demo.page.click("#kill")
    await demo.page.wait_for_selector("#connection[data-status=connecting]")
    with psycopg.connect(showcase.dsn, autocommit=True) as connection:
        connection.execute(
            "UPDATE helpdesk.conversations SET status = 'open' WHERE account_id = 1 AND status = 'snoozed'"
        )
    await demo.page.wait_for_selector("#connection[data-status=online]", timeout=60_000)
    await demo.next_recounts(2)
    await demo.wait_verdict("equal")
    await demo.pause_traffic()
    with psycopg.connect(showcase.dsn) as connection:
        row = connection.execute(
            "SELECT count(*) FROM helpdesk.conversations WHERE account_id = 1 AND status = 'open'"
        ).fetchone()
    assert row is not None
    await eventually(demo.total, "the table's number", until=lambda total: total == row[0])
    await demo.resume_traffic()
    assert await demo.page.evaluate("window.loadedOnce") is True
    assert showcase.text().count("It is started again") == restarts + 1


@in_one_loop
async def test_latency_from_commit_to_screen_is_shown(demo: DemoPage) -> None:
    async def shown() -> str:
        return await demo.page.inner_text("#latency")

    await eventually(shown, "a latency", until=lambda text: re.fullmatch(r"\d+\.\d ms", text) is not None)


@in_one_loop
async def test_page_asks_for_nothing_from_elsewhere(browser: Browser, showcase: Showcase) -> None:
    page = await browser.new_page()
    hosts: set[str] = set()
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    page.on("websocket", lambda opened: hosts.add(urlsplit(opened.url).netloc))
    await DemoPage.open(page, showcase.url)
    assert hosts - {""} == {urlsplit(showcase.url).netloc}


@in_one_loop
async def test_another_sites_page_can_press_no_button(browser: Browser, showcase: Showcase) -> None:
    context = await browser.new_context()
    answer = await context.request.post(f"{showcase.url}demo/kill")
    assert answer.status == 403
    rebound = await context.request.post(
        f"{showcase.url}demo/actions/close?account=1", headers={"X-Demo": "1", "Host": "evil.example"}
    )
    assert rebound.status in {403, 404, 421}


def test_taken_port_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with Showcase(tmp_path / "log", port=port) as refused:
            assert refused.process.wait(30) != 0
            assert f"port {port} on 127.0.0.1 can't be used" in refused.text()
            assert "--port" in refused.text()


@pytest.mark.parametrize("end", ["interrupt", "kill"])
def test_nothing_is_left_behind(tmp_path: Path, end: str) -> None:
    """Ctrl-C, and what no program can prepare for."""
    with Showcase(tmp_path / "log") as showcase:
        showcase.wait_shown()
        processes = processes_of(showcase.process.pid)
        folders = [Path(folder) for folder in _folders_of(processes)]
        assert len(processes) > 10
        assert len(folders) == 3
        if end == "interrupt":
            assert showcase.interrupt() == 0, showcase.text()
            assert alive(processes) == set()
        else:
            showcase.process.kill()
            eventually_sync(lambda: not alive(processes), "every process ended")
        eventually_sync(lambda: not any(folder.exists() for folder in folders), "every folder is gone")


def _folders_of(processes: set[int]) -> set[str]:
    """Return the temporary folders that the processes were started with."""
    found: set[str] = set()
    for pid in processes:
        text = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
        found |= set(re.findall(r"/[^\0\"]*?/cdc-counter-[a-z]+-[^/\0\"]+", text))
    return found


def _redis(showcase: Showcase, command: bytes) -> None:
    port = urlsplit(showcase.redis_url).port
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(command + b"\r\n")
        assert connection.recv(64).startswith(b":")
