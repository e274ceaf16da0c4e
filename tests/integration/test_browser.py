"""The browser of the tests runs, with its own libraries."""

from playwright.async_api import Browser


async def test_browser_runs_scripts_and_takes_input(browser: Browser) -> None:
    page = await browser.new_page()
    await page.set_content("<input><script type=module>document.title = `${6 * 7}`</script>")
    await page.fill("input", "typed")
    assert await page.title() == "42"
    assert await page.input_value("input") == "typed"
