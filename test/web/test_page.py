"""The page in a real browser: seen, asked, clicked, corrected, by mouse and by keyboard."""

import base64
import json
import re

import cv2
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe

SIZES = {"desktop": (1440, 900), "phone": (390, 844)}
PATIENCE_MS = 60_000
MAX_BYTES = 150_000  # of all that is loaded before the first picture
GOLDEN = 0.618034


@pytest.fixture
def open_page(browser):
    """Opens pages in contexts of their own; gives them with all that went wrong in them."""
    contexts = []

    def open_one(page, size="desktop", scheme="dark"):
        width, height = SIZES[size]
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            has_touch=size == "phone",
        )
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(PATIENCE_MS)
        tab.wrong = []
        tab.asked = []
        tab.on("pageerror", lambda error: tab.wrong.append(str(error)))
        tab.on(
            "console", lambda told: tab.wrong.append(told.text) if told.type == "error" else None
        )
        tab.on("request", lambda request: tab.asked.append(request.url))
        tab.goto(page.url)
        tab.wait_for_selector("#marks[data-stamp]")
        return tab

    yield open_one
    for context in contexts:
        context.close()


def canvas(tab, name):
    """Pixels of a canvas, RGBA, with the stamp that it is drawn for, taken in one moment."""
    stamp, url = tab.evaluate(
        "name => [document.getElementById('marks').dataset.stamp, "
        "document.getElementById(name).toDataURL()]",
        name,
    )
    png = np.frombuffer(base64.b64decode(url.split(",")[1]), np.uint8)
    pixels = cv2.imdecode(png, cv2.IMREAD_UNCHANGED)
    seconds, nanoseconds = stamp.split(".")
    return pixels[:, :, [2, 1, 0, *range(3, pixels.shape[2])]], int(seconds) * 10**9 + int(
        nanoseconds
    )


def query_rgb(query_id):
    """The page's colour of a query: hue by the golden ratio, saturation 3/4."""
    hue = np.uint8([[[(query_id * GOLDEN) % 1.0 * 180, 191, 255]]])
    return cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0].astype(int)


def rings(pixels, query_id, width=320):
    """Centres of the points of a query on the overlay, in pixels of the picture."""
    alike = np.abs(pixels[:, :, :3].astype(int) - query_rgb(query_id)).max(2) < 12
    mask = (alike & (pixels[:, :, 3] > 200)).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    scale = width / pixels.shape[1]
    return [
        ((left + wide / 2) * scale - 0.5, (top + high / 2) * scale - 0.5)
        for left, top, wide, high, _ in stats[1:]
        if 12 < wide < 30 and abs(wide - high) <= 2
    ]


def handles(pixels, query_id, width=320):
    """Centres of the points that can be dragged, in pixels of the picture."""
    alike = np.abs(pixels[:, :, :3].astype(int) - query_rgb(query_id)).max(2) < 12
    rows, columns = np.nonzero(alike & (pixels[:, :, 3] > 200))
    scale = width / pixels.shape[1]
    middle = (columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2
    return [(middle[0] * scale - 0.5, middle[1] * scale - 0.5)]


def standing_id(page, name):
    return page.until(lambda: page.hub.standing("molmo2").get(name), "standing query")["id"]


def place_on_screen(tab, u, v):
    box = tab.locator("#marks").bounding_box()
    return box["x"] + (u + 0.5) / 320 * box["width"], box["y"] + (v + 0.5) / 240 * box["height"]


def thing(page, stamp_ns, name):
    return next(t for t in page.playback.shown[stamp_ns].truth if t.name == name)


def stamp_shown(tab):
    return tab.locator("#marks").get_attribute("data-stamp")


def wait_for_another(page, tab, before):
    """Wait until another scene is shown (the page's policy forbids Playwright's own polling)."""
    page.until(lambda: stamp_shown(tab) != before, "another scene")


def test_what_is_asked_is_marked_on_its_pixel_of_the_picture_of_its_stamp(page, open_page):
    tab = open_page(page)
    tab.get_by_label("Question").fill("point: the red mug")
    tab.get_by_role("button", name="Keep asking").click()
    query_id = standing_id(page, "red_mug")
    tab.locator("#targets tbody tr", has_text="red mug 1").wait_for()

    for _ in range(5):
        overlay, stamp_ns = canvas(tab, "marks")
        picture, picture_stamp_ns = canvas(tab, "picture")
        shown = page.playback.shown[picture_stamp_ns].frame.image
        assert np.abs(picture[:, :, :3].astype(int) - shown).mean() < 4
        ((u, v),) = rings(overlay, query_id)
        (mark,) = page.hub.told[stamp_ns].marks
        assert (u, v) == pytest.approx((mark.u, mark.v), abs=0.8)
        assert page.lies_on("red mug", u, v, stamp_ns)
        wait_for_another(page, tab, stamp_shown(tab))
    assert tab.wrong == []


def test_a_question_asked_once_is_answered_in_words_and_counts(page, open_page):
    tab = open_page(page)
    tab.get_by_label("Question").fill("How many mugs are there?")
    tab.keyboard.press("Enter")
    tab.locator("#answer-facts", has_text="tokens in").wait_for()
    assert tab.locator("#answer-text").inner_text().splitlines()[0] == "2"
    assert "How many mugs" in tab.locator("#spoken").inner_text()
    tab.get_by_label("Question").fill("point: the elephant")
    tab.keyboard.press("Enter")
    tab.get_by_text("does not know 'elephant'").wait_for()
    assert page.hub.standing("molmo2") == {}


def test_what_is_clicked_is_tracked_from_there(page, open_page):
    tab = open_page(page)
    tab.get_by_label("called").fill("lemon")
    stamp_ns = canvas(tab, "marks")[1]
    u, v = thing(page, stamp_ns, "lemon").point_px
    tab.mouse.click(*place_on_screen(tab, u, v))
    tab.get_by_text("Tracking lemon from there").wait_for()
    query_id = standing_id(page, "here_1")
    tab.locator("#targets tbody tr", has_text="lemon 1").wait_for()
    overlay, stamp_ns = canvas(tab, "marks")
    ((u, v),) = rings(overlay, query_id)
    assert page.lies_on("lemon", u, v, stamp_ns)


def test_queries_are_renamed_slowed_paused_and_removed(page, open_page):
    page.stand("mug=point: the red mug")
    tab = open_page(page)
    tab.get_by_role("button", name="Rename mug").click()
    tab.get_by_label("New name of mug").fill("cup")
    tab.keyboard.press("Enter")
    tab.get_by_label("Rate of cup").select_option("2")
    page.until(
        lambda: page.hub.standing("molmo2").get("cup", {}).get("wanted_rate_hz") == 2.0, "new rate"
    )
    tab.get_by_role("button", name="Pause cup").click()
    tab.get_by_role("button", name="Resume cup").wait_for()
    assert page.hub.standing("molmo2")["cup"]["paused"]
    tab.get_by_role("button", name="Remove cup").click()
    tab.get_by_text("Nothing is asked yet").wait_for()
    assert tab.wrong == []


def test_points_are_dragged_added_deleted_saved_and_taken_back(page, open_page):
    mug = page.stand("point: the red mug")
    page.until(lambda: page.marks(mug["id"])[1], "target")
    tab = open_page(page)
    tab.locator("#targets tbody tr", has_text="red mug 1").wait_for()
    tab.get_by_role("button", name="Stop and correct").click()
    _, stamp_ns = canvas(tab, "marks")
    ((u, v),) = handles(canvas(tab, "marks")[0], mug["id"])

    tab.mouse.move(*place_on_screen(tab, u, v))
    tab.mouse.down()
    tab.mouse.move(*place_on_screen(tab, 100, 60), steps=4)
    tab.mouse.move(*place_on_screen(tab, 150, 90), steps=4)
    tab.mouse.up()
    tab.mouse.click(*place_on_screen(tab, 250, 200))
    tab.get_by_role("button", name="Save correction").click()
    tab.get_by_text("Correction of red mug saved").wait_for()
    void, *places = page.corrections()
    assert (void["visible"], void["query"], void["source"]) == (False, "red mug", "web")
    assert void["stamp"] == {"sec": stamp_ns // 10**9, "nanosec": stamp_ns % 10**9}
    assert [(p["u"], p["v"]) for p in places] == [
        pytest.approx((150, 90), abs=1.0), pytest.approx((250, 200), abs=1.0),
    ]  # fmt: skip
    assert (page.folder / "pictures" / f"{stamp_ns}.jpg").is_file()
    assert canvas(tab, "marks")[1] == stamp_ns  # it stands still

    tab.mouse.click(*place_on_screen(tab, 150, 90))
    tab.get_by_role("button", name="Delete point").click()
    tab.get_by_role("button", name="Save correction").click()
    page.until(lambda: len(page.corrections()) == 5, "second correction")
    assert [c["u"] for c in page.corrections()[3:]] == [None, pytest.approx(250, abs=1.0)]
    tab.locator("#corrections li", has_text="recorded").nth(1).wait_for()

    tab.locator("#toast").get_by_role("button", name="Undo").click()
    tab.get_by_text("Correction taken back").wait_for()
    page.until(lambda: len(page.corrections()) == 8, "the first correction again")
    tab.get_by_role("button", name="Track what I click").click()
    wait_for_another(page, tab, f"{stamp_ns // 10**9}.{stamp_ns % 10**9:09d}")
    assert tab.wrong == []


def test_all_of_it_goes_by_keyboard(page, open_page):
    tab = open_page(page)
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    tab.keyboard.press("Enter")
    tab.keyboard.type("point: the lemon")
    tab.keyboard.press("Shift+Enter")
    standing_id(page, "lemon")
    tab.locator("#targets tbody tr", has_text="lemon 1").wait_for()
    tab.locator("#called-text").fill("mug")
    tab.locator("#marks").focus()
    for key in ("Enter", "ArrowRight", "ArrowDown", "Enter"):
        tab.keyboard.press(key)
    assert page.until(lambda: page.hub.standing("molmo2").get("here_1"), "track")["words"] == "mug"

    tab.get_by_role("button", name="Stop and correct").press("Enter")
    tab.get_by_label("Query to correct").select_option("lemon")
    tab.locator("#marks").focus()
    for key in (".", "ArrowLeft", "ArrowLeft", "Delete"):
        tab.keyboard.press(key)
    tab.get_by_role("button", name="Save correction").press("Enter")
    tab.get_by_text("Correction of lemon saved").wait_for()
    assert [c["visible"] for c in page.corrections()] == [False]
    tab.keyboard.press("Escape")
    assert (
        tab.get_by_role("button", name="Track what I click").get_attribute("aria-pressed") == "true"
    )


def test_the_page_comes_back_when_the_server_does(start, open_page):
    first = start()
    first.until(lambda: first.hub.scenes, "picture")
    port = first.server.port
    tab = open_page(first)
    first.close()
    tab.get_by_text("connection lost; trying again").wait_for()
    stale = stamp_shown(tab)
    again = start(port=port)
    again.stand("point: the lemon")
    tab.get_by_text("connection lost; trying again").wait_for(state="hidden")
    wait_for_another(again, tab, stale)
    tab.locator("#targets tbody tr", has_text="lemon 1").wait_for()


def test_three_viewers_of_which_one_is_stalled(page, open_page):
    tabs = [open_page(page), open_page(page)]
    with page.viewer() as stalled:
        stalled.send(json.dumps({"type": "watch"}))
        counts = []
        for tab in tabs:
            tab.evaluate("drawn = 0; document.addEventListener('molmo2:drawn', () => drawn++)")
        before = page.hub.num_scenes
        page.until(lambda: page.hub.num_scenes >= before + 24, "three seconds")
        counts = [tab.evaluate("drawn") for tab in tabs]
        outbox = page.hub.viewers[max(page.hub.viewers)]
        assert outbox.num_sent == 2
        assert len(outbox) < 10
    assert min(counts) > 12, counts
    assert "3" in tabs[0].locator("#strip div", has_text="Viewers").inner_text()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_nobody_is_kept_out(page, open_page, size, scheme):
    page.stand("mugs=count: mugs")
    page.until(lambda: page.hub.answers, "answer")
    tab = open_page(page, size, scheme)
    tab.locator("#queries").get_by_text("2", exact=True).wait_for()
    assert tab.evaluate("document.documentElement.dataset.theme") == scheme
    assert tab.evaluate("document.scrollingElement.scrollWidth") <= SIZES[size][0]
    live = Axe().run(tab)
    assert live.violations_count == 0, live.generate_report()
    tab.get_by_role("button", name="Stop and correct").click()
    tab.get_by_role("button", name="Save as right").wait_for()
    stopped = Axe().run(tab)
    assert stopped.violations_count == 0, stopped.generate_report()


def test_little_is_loaded_and_nothing_from_elsewhere(page, open_page):
    tab = open_page(page)
    loaded = tab.evaluate(
        "['resource', 'navigation'].flatMap(kind => performance.getEntriesByType(kind))"
        ".map(entry => entry.decodedBodySize)"
    )
    assert 20_000 < sum(loaded) < MAX_BYTES
    assert {re.match(r"\w+://([^/]+)/", url)[1] for url in tab.asked} == {
        f"127.0.0.1:{page.server.port}"
    }
    assert tab.wrong == []


def test_words_are_shown_as_words(page, open_page):
    tab = open_page(page)
    words = 'mug <img src=x onerror="document.title=1"><b>x</b>'
    tab.get_by_label("Question").fill(f"point: {words}")
    tab.get_by_role("button", name="Keep asking").click()
    tab.locator(".query .words", has_text="onerror").wait_for()
    assert tab.locator(".query .words").inner_text() == words
    assert tab.locator(".query b, .query img").count() == 0
    assert tab.title() == "molmo2 live"


def test_a_page_that_nobody_sees_gets_no_pictures(page, open_page):
    tab = open_page(page)
    tab.evaluate(
        "Object.defineProperty(document, 'hidden', {value: true}); "
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    (outbox,) = page.hub.viewers.values()
    page.until(lambda: not outbox.wants_scenes, "word that it is hidden")
    num_encoded, num_scenes = page.hub.num_encoded, page.hub.num_scenes
    page.until(lambda: page.hub.num_scenes > num_scenes + 4, "more pictures")
    assert page.hub.num_encoded <= num_encoded + 1
