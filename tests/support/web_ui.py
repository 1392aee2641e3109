"""Pages in headless Chromium: NNI's web UI, and reports."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Locator, Page, Route, expect, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_EXTENT_OF_BLUE = """canvas => {
    const [width, height] = [canvas.width, canvas.height];
    const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
    const [columns, rows] = [new Set(), new Set()];
    for (let i = 0; i < width * height; i++)
        if (pixels[4 * i + 2] - pixels[4 * i] > 80 && pixels[4 * i + 3] > 200) {
            columns.add(i % width);
            rows.add(Math.floor(i / width));
        }
    return [columns.size / width, rows.size / height];
}"""  # nothing else in the chart of a trial is blue, but for a small legend

# Of each icon whether its font has a picture for it: one that it lacks is drawn as what all lack
_ICONS = """async () => {
    const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const drawn = text => {
        canvas.clearRect(0, 0, 40, 40);
        canvas.fillText(text, 5, 30);
        return canvas.getImageData(0, 0, 40, 40).data.join();
    };
    const shown = {};
    for (const icon of document.querySelectorAll("i[data-icon-name]")) {
        canvas.font = "20px " + getComputedStyle(icon).fontFamily;
        await document.fonts.load(canvas.font, icon.textContent);
        shown[icon.dataset.iconName] = drawn(icon.textContent) !== drawn("\\uF8FE");
    }
    return shown;
}"""


class Browser:
    """A page in headless Chromium.

    Attributes:
        page: Playwright's page.
        errors: JavaScript errors so far.
        complaints: What the browser has written to its console.
        requests: Addresses that were asked for anything, but for files opened here.
    """

    def __init__(self, page: Page, pictures: Path) -> None:
        self.page = page
        self.errors: list[str] = []
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._pictures = pictures
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("request", lambda request: self.requests.append(request.url))
        page.route("**/*", _only_this_machine)

    def open(self, port: int, path: str) -> None:
        """Go to a page of the web UI."""
        self.page.goto(f"http://127.0.0.1:{port}/{path}")

    def open_file(self, path: Path, *, width: int, dark: bool) -> None:
        """Open a page from a file, in a window of that width."""
        self.page.set_viewport_size({"width": width, "height": 1000})
        self.page.emulate_media(color_scheme="dark" if dark else "light")
        self.page.goto(path.as_uri())
        self.requests.remove(path.as_uri())

    def trials(self) -> list[dict[str, str]]:
        """Return the list of trials, the texts of each row by column."""
        self.page.wait_for_selector("[data-automationid=DetailsRow]")
        headers = self.page.get_by_role("columnheader").all_inner_texts()
        names = [header.partition("\n")[0] for header in headers]  # a sign of how it is sorted
        rows = self.page.locator("[data-automationid=DetailsRow]").all()
        return [
            dict(zip(names, row.get_by_role("gridcell").all_inner_texts(), strict=True))
            for row in rows
        ]

    def add_columns(self, *names: str) -> None:
        """Choose further columns for the list of trials."""
        self.page.get_by_role("button", name="Add/Remove columns").click()
        for name in names:
            box = self.page.get_by_role("checkbox", name=name, exact=True)
            box.set_checked(True, force=True)  # the box itself is hidden behind its picture
        self.page.get_by_role("button", name="Save").click()

    def sort(self, column: str) -> None:
        """Sort the list of trials by a column; once more, the other way round."""
        with self.page.expect_response("**/metric-data"):  # before, a click does nothing
            self.page.get_by_role("button", name="Refresh", exact=True).click()
        header = self.page.get_by_role("columnheader", name=column)
        before = header.get_attribute("aria-sort") or ""
        header.click()
        expect(header).not_to_have_attribute("aria-sort", before)

    def unfold(self, number: int) -> str:
        """Unfold a row of the list and return the parameters of its trial."""
        row = self.page.locator("[data-automationid=DetailsRow]").nth(number)
        row.locator("[data-automation-key=_expand] i").click()
        return self.page.get_by_role("tabpanel").filter(has_text="key:").inner_text()

    def axes(self) -> list[str]:
        """Open the chart of hyper-parameters and return the names of its axes."""
        self.page.get_by_role("tab", name="Hyper-parameter").click()
        self.page.wait_for_selector(".parcoords .dimension")
        return self.page.locator(".parcoords .dimension text.label").all_text_contents()

    def open_curves(self, number: int) -> list[str]:
        """Open the dialog of a trial's intermediate results and return what it offers to plot."""
        self.page.get_by_title("Intermediate", exact=True).nth(number).click()
        self._dialog.get_by_role("combobox").click()
        names = self.page.get_by_role("option").all_inner_texts()
        self.page.keyboard.press("Escape")
        return names

    def curve(self, name: str) -> tuple[float, float]:
        """Choose a curve in the open dialog; return its extent as shares of the chart's."""
        self._dialog.get_by_role("combobox").click()
        self.page.get_by_role("option", name=name, exact=True).click()
        self.page.wait_for_timeout(1500)  # it grows slowly
        width, height = self._dialog.locator("canvas").evaluate(_EXTENT_OF_BLUE)
        return width, height

    @property
    def _dialog(self) -> Locator:
        return self.page.get_by_role("dialog")

    def icons(self) -> dict[str, bool]:
        """Return the names of the page's icons, and of each whether it is more than a box."""
        found: dict[str, bool] = self.page.evaluate(_ICONS)
        return found

    def picture(self, name: str) -> None:
        """Keep a screenshot beside the experiment."""
        self._pictures.mkdir(exist_ok=True)
        self.page.screenshot(path=self._pictures / f"{name}.png", full_page=True)


def _only_this_machine(route: Route) -> None:
    address = urlsplit(route.request.url)
    if address.scheme == "file" or address.hostname == "127.0.0.1":
        route.continue_()
    else:
        route.abort()


@contextlib.contextmanager
def new_browser(pictures: Path) -> Iterator[Browser]:
    """Start Chromium; skip the test if there is none.

    Args:
        pictures: Folder for screenshots.
    """
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=executable, headless=True, args=list(FLAGS)
        )
        page = chromium.new_page(viewport={"width": 1600, "height": 1000})
        yield Browser(page, pictures)
        chromium.close()
