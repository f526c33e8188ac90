"""Takes the pictures of the documents: `python test/web/screenshots.py [FOLDER]`."""

import importlib.util
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from molmo2_ros.grounder import Grounder
from molmo2_ros.runtime.engine import load_engine
from molmo2_ros.simulation.source import TableSource

ROOT = Path(__file__).parents[2]
SHOTS = {
    "web_dark": ((1440, 900), "dark", 1),
    "web_light": ((1440, 900), "light", 1),
    "web_phone": ((390, 844), "dark", 2),
}
QUERIES = ("point: the red mug", "count: mugs", "track: the lemon")


def main(folder=ROOT / "docs" / "images"):
    spec = importlib.util.spec_from_file_location("page", Path(__file__).with_name("conftest.py"))
    tools = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tools)
    source = TableSource(seed=2, width=640, height=480, rate_hz=8.0)
    frames = [source.read_table() for _ in range(16)]
    playback = tools.TablePlayback(frames, 8.0)
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        page = tools.Page(playback, Grounder(load_engine()), Path(scratch))
        page.until(lambda: page.hub.scenes, "picture")
        for query in QUERIES:
            page.stand(query)
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        for name, (size, scheme, density) in SHOTS.items():
            context = browser.new_context(
                viewport=dict(zip(("width", "height"), size, strict=True)),
                color_scheme=scheme,
                device_scale_factor=density,
            )
            tab = context.new_page()
            tab.goto(page.url)
            tab.locator("#targets tbody tr").nth(3).wait_for()
            tab.get_by_label("Question").fill("How many mugs are there?")
            tab.keyboard.press("Enter")
            tab.locator("#answer-facts", has_text="tokens").wait_for()
            time.sleep(2.0)  # until the strip has its figures
            if name == "web_light":
                correct(tab)
            tab.screenshot(path=folder / f"{name}.jpg", type="jpeg", quality=88)
            context.close()
        browser.close()
        page.close()


def correct(tab):
    """A picture that is being corrected."""
    tab.get_by_role("button", name="Stop and correct").click()
    tab.get_by_label("Query to correct").select_option("mugs")
    tab.locator("#marks").focus()
    tab.keyboard.press(".")
    tab.get_by_role("button", name="Save").click()
    tab.locator("#corrections li").first.wait_for()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
