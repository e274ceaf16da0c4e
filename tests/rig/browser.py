"""A headless Chromium under a driver."""

from typing import TYPE_CHECKING

from tests.rig.javascript import BrowserProgram

if TYPE_CHECKING:
    from playwright.async_api import Browser, Playwright


async def launched(playwright: "Playwright", program: BrowserProgram) -> "Browser":
    """Start it; one that dies of itself as it starts, which is seen on busy machines, is started again."""
    for attempts_left in (2, 1, 0):
        try:
            return await playwright.chromium.launch(
                executable_path=program.executable, args=program.arguments, env=dict(program.environment)
            )
        except Exception as error:
            if not attempts_left or "has been closed" not in str(error):
                raise
    raise AssertionError("not reached")
