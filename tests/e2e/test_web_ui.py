"""A whole experiment as its user sees it: in the terminal, on disk, and in NNI's web UI."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from nni_world import World, get, new_world, unused_port, wait_for
from web_ui import Browser, new_browser

from sedona_nni.decouplings.choice import discretise
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.searches.sedona.result import SearchResult

pytestmark = [pytest.mark.nni, pytest.mark.xdist_group("web_ui")]

# Where each picture of a page is, how large its smallest text is shown, in pixels, and whether its
# texts can be told from what is behind them
_PICTURES = """() => [...document.querySelectorAll("figure")].map(figure => {
    const picture = figure.querySelector("svg");
    const box = picture.getBoundingClientRect();
    const scale = box.width / picture.viewBox.baseVal.width;
    const texts = [...picture.querySelectorAll("text")].map(text => getComputedStyle(text));
    const behind = getComputedStyle(figure).backgroundColor;
    const light = colour => colour.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 765;
    return {
        caption: figure.querySelector("strong").textContent,
        left: box.left,
        right: box.right,
        height: box.height,
        text: Math.min(...texts.map(style => scale * parseFloat(style.fontSize))),
        contrast: Math.min(...texts.map(style => Math.abs(light(style.fill) - light(behind)))),
    };
})"""

CURVES = {
    "default",
    "loss",
    "meta_loss",
    "train_loss",
    "local_loss",
    "lr",
    "decided",
    "step",
    "steps",
}


@dataclass
class Run:
    """``sedona-nni run`` of an experiment: a search, then a training of each of three decouplings.

    Attributes:
        world: Where it runs.
        port: Of its web UI.
        process: The command.
    """

    world: World
    port: int
    process: subprocess.Popen[str] = field(init=False)

    def progress(self) -> str:
        """Return what the command has told so far."""
        return (self.world.home / "progress.txt").read_text()

    @cached_property
    def id(self) -> str:
        """NNI's name of the experiment."""
        return re.findall(r"experiment (\w+), web UI", self.progress())[0]

    def start(self, *arguments: str | Path) -> None:
        """Start ``sedona-nni`` at the port."""
        with (self.world.home / "progress.txt").open("a") as progress:
            self.process = subprocess.Popen(
                self.world.command("sedona_nni.command_line", *arguments, "--port", str(self.port)),
                env=self.world.environment | {"COLUMNS": "80"},
                cwd=self.world.home,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=progress,
                text=True,
            )

    def interrupt_and_resume(self) -> None:
        """Stop the command as Ctrl-C does, and go on."""
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=60)
        assert self.process.returncode == 130
        self.start("resume", self.id)

    def drawn_steps(self) -> list[int]:
        """Return the step of each point that the web UI draws of the search, in its order."""
        points = {}
        for metric in get(self.port, "metric-data"):  # the later one takes the earlier one's place
            value = json.loads(json.loads(metric["data"]))
            if "step" in value:
                points[metric["sequence"]] = value["step"]
        return [int(points[number]) for number in sorted(points)]

    @cached_property
    def table(self) -> str:
        """Wait for the end and return what the command printed."""
        return self.process.communicate(timeout=300)[0]

    @property
    def results(self) -> Path:
        """The folder of the results."""
        return self.world.home / "results" / self.id


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with new_world(tmp_path_factory.mktemp("home")) as world:
        experiment = world.experiment(
            trialCommand="sedona-nni-trial",
            searchSpace={"lr": {"_type": "loguniform", "_value": [0.05, 0.1]}},
            class_args={
                "task": {"backbone": "vgg11", "width_multiplier": 0.25, "train_limit": 600},
                "num_blocks": 2,
                "aux": ["conv1", "mlp-sr"],
                "search": {
                    "pretrain_steps": 60,
                    "meta_steps": 60,
                    "inner_steps": 1,
                    "batch_size": 32,
                    "validation_batch_size": 64,
                    "lr": 0.05,
                    "meta_lr": 0.1,
                    "memory_size": 5,
                    "num_snapshots": 10,
                },
                "train": {"epochs": 6, "batch_size": 32},
                "compare": ["uniform", "backprop"],
                "uniform_aux": "mlp-sr",
                "trials_per_strategy": 1,
                "device": "cpu",
                "threads": 1,
            },
        )
        run = Run(world, unused_port())
        run.start("run", experiment)
        yield run
        run.process.terminate()
        run.process.wait(60)


@pytest.fixture(scope="module")
def viewed(run: Run) -> Iterator[int]:
    """Show the finished experiment again, as ``nnictl view`` does; the port of the web UI."""
    assert run.table
    port = unused_port()
    run.world.nnictl("view", run.id, "--port", str(port))
    manager = psutil.Process(get(port, "experiment-metadata")["pid"])
    yield port
    run.world.nnictl("stop", run.id)
    wait_for(lambda: not manager.is_running() or manager.status() == psutil.STATUS_ZOMBIE)


@pytest.fixture
def browser(run: Run) -> Iterator[Browser]:
    with new_browser(run.world.home / "screenshots") as browser:
        yield browser


@pytest.mark.browser
def test_the_curves_of_the_search_are_visible_while_it_runs_also_after_a_resume(
    run: Run, browser: Browser
) -> None:
    wait_for(lambda: "search: started" in run.progress(), process=run.process)
    wait_for(lambda: len(run.drawn_steps()) > 20, process=run.process)
    run.interrupt_and_resume()
    wait_for(lambda: run.progress().count("search: started") == 2, process=run.process)
    report = run.world.sedona("report", run.id)
    wait_for(lambda: len(run.drawn_steps()) > 75, process=run.process)
    steps = run.drawn_steps()
    assert steps == list(range(1, 1 + len(steps)))  # the search reports each of its few steps
    browser.open(run.port, "oview")
    browser.page.get_by_text("1/4", exact=True).wait_for()  # and not 1/Infinity
    browser.open(run.port, "detail")
    (search,) = browser.trials()
    assert search["Status"] == "RUNNING"
    assert re.fullmatch(r"0\.\d+ \(LATEST\)", search["Default metric"])

    assert set(browser.open_curves(0)) == CURVES
    for name in ("default", "meta_loss", "decided"):
        width, height = browser.curve(name)
        browser.picture(f"search-{name}")
        assert (name, width > 0.7, height > 0.3) == (name, True, True)
    assert browser.errors == []

    # all comes from this machine, and nothing is shown as a box
    assert {urlsplit(address).hostname for address in browser.requests} == {"127.0.0.1"}
    icons = browser.icons()
    assert {"ChevronRight", "ChevronDown", "Cancel", "Copy"} <= set(icons)
    assert [name for name, shown in icons.items() if not shown] == []
    browser.picture("icons")

    assert run.process.poll() is None
    out, err = report.communicate(timeout=60)
    assert report.returncode == 0, err
    assert f"experiment {run.id} is running: 0 of 4 trials have ended; open: search" in out


def test_the_run_ends_well_with_a_table_and_results(run: Run) -> None:
    table = run.table
    assert run.process.returncode == 0
    words = run.progress().split("\n")
    assert f"experiment {run.id}, web UI: http://127.0.0.1:{run.port}" in words
    assert f"results: {Path('results') / run.id}" in words
    assert f"pictures: sedona-nni report results/{run.id} --html report.html" in words
    assert run.world.processes() == []

    # a row for each strategy, and nothing cut off
    assert re.findall(r"^ (\w+) .* (\d+\.\d%) .* MiB .* 1 *$", table, re.M)
    assert "…" not in table
    rows = json.loads((run.results / "table.json").read_text())
    assert [row["strategy"] for row in rows] == ["sedona", "uniform", "backprop"]
    for row in rows:
        shown = Decoupling.model_validate(row["decoupling"])
        assert Decoupling.load(run.results / f"{row['strategy']}.json") == shown
        assert f"{row['test_accuracy']:.1%}" in table
        assert f"{row['parameters']:,}" in table
        assert row["peak_memory_mib"] > 1

    # the decoupling is the one that was searched for
    found = SearchResult.load(run.results / "search-result.json")
    sedona = Decoupling.load(run.results / "sedona.json")
    assert discretise(found, 2).cuts == sedona.cuts
    assert found.provenance["steps_done"] == 120
    assert Decoupling.load(run.results / "uniform.json").cuts == [3]
    assert Decoupling.load(run.results / "backprop.json").cuts == []


@pytest.fixture(scope="module")
def report(run: Run) -> Path:
    """The report's page."""
    assert run.table
    made = run.world.sedona("report", run.id, "--html", "report.html", "--json")
    out, err = made.communicate(timeout=60)
    assert (made.returncode, err) == (0, "report: report.html\n")
    (group,) = json.loads(out)["groups"]
    assert [each["state"] for each in group["experiments"]] == ["finished"]
    return run.world.home / "report.html"


@pytest.mark.browser
@pytest.mark.parametrize(("width", "dark"), [(1600, False), (400, True)])
def test_the_report_is_good_to_look_at(
    width: int, dark: bool, report: Path, browser: Browser
) -> None:
    browser.open_file(report, width=width, dark=dark)
    browser.picture(f"report-{width}")
    assert browser.page.evaluate("document.documentElement.scrollWidth") == width
    pictures = {each["caption"]: each for each in browser.page.evaluate(_PICTURES)}
    cuts = {"sedona": "cut after layer ", "uniform": "cut after layer 3 (mlp-sr)", "backprop": "no"}
    kinds = [f"{strategy}: {start}" for strategy, start in cuts.items()]
    for strategy in cuts:
        kinds += [f"{strategy}: its best training", f"{strategy}: trainings in their order"]
    for over in ("images", "time"):
        kinds += [f"Validation accuracy over {over}", f"Test accuracy over {over}"]
    against = ("peak memory", "ideal speed-up", "measured speed-up")
    kinds += [f"Test accuracy against {quantity}" for quantity in against]
    kinds += ["How much each boundary prefers a cut", "Where the search ended"]
    kinds += ["How much weight each auxiliary network", "The relaxed network while it is"]
    kinds += ["Evidence against ideal speed-up"]
    assert len(pictures) == len(kinds)
    for kind in kinds:
        (shown,) = (each for caption, each in pictures.items() if caption.startswith(kind))
        assert shown["left"] >= 0, kind
        assert shown["right"] <= width, kind
        assert shown["height"] > 100, kind
        assert shown["text"] > 7.5, kind
        assert shown["contrast"] > 0.5, kind
    assert (browser.errors, browser.complaints, browser.requests) == ([], [], [])


@pytest.mark.browser
def test_the_report_sorts_its_trainings_and_gives_its_pictures_away(
    report: Path, browser: Browser
) -> None:
    browser.open_file(report, width=1600, dark=False)
    table = browser.page.get_by_role("region", name="All trainings")
    table.get_by_role("button", name="validation accuracy").click()
    accuracies = [
        float(text.rstrip("%")) for text in table.locator("td:nth-child(4)").all_inner_texts()
    ]
    assert accuracies == sorted(accuracies, reverse=True)
    assert len(accuracies) == 3
    with browser.page.expect_download() as download:
        browser.page.get_by_role("button", name="SVG").first.click()
    svg = download.value.path().read_text()
    assert svg.startswith("<svg ")
    assert "var(" not in svg
    assert (browser.errors, browser.complaints) == ([], [])


@pytest.mark.browser
def test_every_trial_is_shown_with_what_defines_it(viewed: int, run: Run, browser: Browser) -> None:
    accuracies = [
        row["validation_accuracy"] for row in json.loads((run.results / "table.json").read_text())
    ]
    browser.open(viewed, "oview")
    browser.page.get_by_text("Top trials").wait_for()
    browser.page.get_by_text("4/4", exact=True).wait_for()
    browser.picture("overview")
    # the search, whose accuracy is of another kind, is not ranked
    ranked = [float(trial["Default metric"]) for trial in browser.trials()]
    assert ranked == pytest.approx(sorted(accuracies, reverse=True), abs=1e-6)
    best = browser.page.get_by_text("Best metric", exact=True).locator("..")
    assert best.inner_text() == f"{max(accuracies):.6f}\nBest metric"

    browser.open(viewed, "detail")
    assert browser.axes() == [
        *("lr", "key", "strategy", "blocks", "cuts", "method"),
        *("default", "loss", "test_accuracy", "peak_memory_mib", "ideal_peak_memory_mib"),
        *("peak_resident_mib", "images_per_s", "ideal_speedup", "time_s"),
    ]
    assert "[object Object]" not in (browser.page.locator(".parcoords").text_content() or "")
    browser.picture("hyper-parameters")
    browser.add_columns("key (space)", "strategy (space)", "lr (space)", "cuts (space)")
    trials = browser.trials()
    assert [trial["key (space)"] for trial in trials] == [
        *("search", "sedona-000", "uniform-000", "backprop-000")
    ]
    assert trials[0]["Default metric"] == "--"
    browser.picture("trials")
    assert [trial["strategy (space)"] for trial in trials] == [
        *("sedona", "sedona", "uniform", "backprop")
    ]
    assert {trial["Status"] for trial in trials} == {"SUCCEEDED"}
    for _ in range(2):  # and last by its list's columns, one way and the other
        browser.sort("Default metric")
        assert browser.trials()[-1]["key (space)"] == "search"
    browser.sort("Trial No.")
    rates = {trial["lr (space)"] for trial in trials[1:]}
    assert len(rates) == 1
    assert 0.05 <= float(rates.pop()) <= 0.1
    sedona = Decoupling.load(run.results / "sedona.json")
    cut = f"{sedona.cuts[0]} {sedona.aux[0]}"
    assert [trial["cuts (space)"] for trial in trials] == ["", cut, "3 mlp-sr", "none"]

    parameters = browser.unfold(1)
    browser.picture("trial")
    for shown in ('key:"sedona-000"', 'strategy:"sedona"', f'cuts:"{cut}"', "lr:"):
        assert shown in parameters
    assert "task:" not in parameters
    assert browser.page.get_by_role("button", name="Original parameters").count() == 1
    assert {"block_1_accuracy", "block_2_accuracy"} <= set(browser.open_curves(1))
    width, _ = browser.curve("loss")
    browser.picture("trial-loss")
    assert width > 0.7
    assert browser.errors == []
