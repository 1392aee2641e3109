"""`sedona_nni.reporting.page` and its pictures; how it looks is seen in tests/e2e."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import pytest
from report_records import (
    COMPUTE,
    CUT,
    TASK,
    probed,
    record,
    search,
    searched,
    studied,
    trained,
)
from third_search import Drawing

from sedona_nni.reporting.build import Source, build_report
from sedona_nni.reporting.data import Spread
from sedona_nni.reporting.drawing import NUM_COLOURS, styles
from sedona_nni.reporting.evidence_pictures import evidence_map, local_loss_map
from sedona_nni.reporting.ledger import TrialRecord
from sedona_nni.reporting.page import render
from sedona_nni.reporting.text import seconds, summary_table
from sedona_nni.searches import SEARCHES, register_search
from sedona_nni.searches.probing.result import ProbeResult

RELAXATION = {
    "step": [60, 61],
    "a_loc": [[0.5] * 7, [0.6, 0.5, 0.5, 0.4, 0.7, 0.3, 0.3]],
    "aux": [[[0.5, 0.5]] * 7, [[0.3, 0.7]] * 7],
}
HISTORY = {"step": [30, 61], "default": [0.2, 0.4], "meta_loss": [2.3, 2.1]}
CURVES = {
    "epoch": [1, 2],
    "default": [0.5, 0.6],
    "block_1_accuracy": [0.4, 0.5],
    "block_2_accuracy": [None, 0.6],
}
ALL: dict[str, Any] = {
    "compute": COMPUTE,
    "sizes": [32, 16, 8, 8, 4, 4, 2, 2],
    "history": CURVES,
    "peak_memory_mib": 5.5,
    "parameters": 1234,
}
CUT_AT_4_CONV1 = {"decoupling": {**CUT, "aux": ["conv1"]}}
HOSTILE = "<script>alert(1)</script>\"'&$x^2${{ 7 * 7 }}</svg>"


def importance(trials: Sequence[tuple[Mapping[str, Any], float]]) -> dict[str, float]:
    return {"lr": 0.75, "weight_decay": 0.25}


def page(*experiments: Sequence[TrialRecord], **more: Any) -> str:
    sources = [Source(f"e{n}", records, **more) for n, records in enumerate(experiments)]
    return render(build_report(sources, importance), "made by a test")


def full_experiment(shift: float = 0.0) -> list[TrialRecord]:
    return [
        searched(history=HISTORY, relaxation=RELAXATION),
        *(trained(f"sedona-{n:03d}", 0.5 + shift + n / 100, **ALL) for n in range(12)),
        trained("uniform-000", 0.6 - shift, given={"hyperparameters": {"lr": 0.9}}, **ALL),
        record("uniform-001", status="failed", reason="training diverged in epoch 1: lr 9"),
    ]


@pytest.fixture(scope="module")
def full_page() -> str:
    return page(full_experiment())


def captions(text: str) -> list[str]:
    return [html.unescape(found) for found in re.findall(r"<figcaption><strong>(.*?)</str", text)]


@pytest.mark.slow(reason="draws every picture")
def test_every_picture_is_there_and_is_well_formed(full_page: str) -> None:
    text = full_page
    assert captions(text) == [
        "Validation accuracy over images",
        "Test accuracy over images",
        "Validation accuracy over time",
        "Test accuracy over time",
        "sedona: cut after layer 4 (conv2)",
        "uniform: cut after layer 4 (conv2)",
        "Test accuracy against peak memory",
        "Test accuracy against ideal speed-up",
        "sedona: its best training",
        "uniform: its best training",
        "How much each boundary prefers a cut, over the search",
        "Where the search ended",
        "How much weight each auxiliary network has",
        "The relaxed network while it is searched",
        "Evidence against ideal speed-up",
        "sedona: trainings in their order",
        "uniform: trainings in their order",
        "Validation accuracy over lr",
        "Which hyperparameters matter",
    ]
    pictures = re.findall(r"<svg .*?</svg>", text, re.S)
    assert len(pictures) == 19
    identifiers = []
    for picture in pictures:
        root = ElementTree.fromstring(picture)
        assert root.attrib["role"] == "img"
        assert len(root.attrib["aria-label"]) > 20
        identifiers += [e.attrib["id"] for e in root.iter() if "id" in e.attrib]
    assert len(set(identifiers)) == len(identifiers)  # all pictures are in one document
    assert "#0101" not in text
    assert "#0102" not in text
    assert "sedona-011 of e0: 51.0%, 5.5 MiB" in text  # under the pointer
    assert "block 1, auxiliary network: 12.5% of the backbone's compute" in text
    assert "training diverged in epoch 1: lr 9" in text
    assert "uniform-001 of experiment e0" in text


@pytest.mark.slow(reason="draws every picture")
def test_a_probing_has_pictures_of_its_own_and_numbers() -> None:
    text = page([probed(), trained("probe-000", 0.6, given=CUT_AT_4_CONV1)])
    assert [each for each in captions(text) if "cut" in each or "Evidence" in each] == [
        "How well each single cut teaches what is below it",
        "What speaks for each block that ends with a cut",
        "Evidence against ideal speed-up",
    ]
    assert "Least loss: after layer 4 with conv1, 0.500 nats; the undivided backbone 2.250" in text
    assert "cut after layer 3 with conv2: 1.300 nats" in text  # under the pointer
    assert "the undivided backbone: 2.250 nats" in text
    assert "block from layer 3 to layer 4, cut there: 0.000 nats" in text
    assert "block from layer 4 to layer 3" not in text
    assert text.count("<title>trained: cut") == 0
    assert text.count("<title>cut after layer 4</title>") == 2  # a mark in both
    rows = re.findall(r"<tr>(.*?)</tr>", text, re.S)
    (row,) = (cells for cells in map(texts_of, rows) if cells[:3] == ["4", "0.500", "1.100"])
    assert row[3:] == ["conv1", "0.000", "K = 2"]
    (row,) = (cells for cells in map(texts_of, rows) if "15 probes of 24 steps" in cells)
    assert row == ["search", "15 probes of 24 steps", "–", "–", "70", "7.0 s", "2.44"]
    (row,) = (cells for cells in map(texts_of, rows) if "yes" in cells)
    assert row[:3] == ["2", "cut after layer 4 (conv1)", "0.000"]
    assert "a_loc" not in text


@pytest.mark.slow(reason="draws every picture")
def test_a_search_of_another_kind_shows_what_speaks_for_each_block() -> None:
    drawn = [[0.0, 0.5], [1.0, 0.2], *([0.1, 0.3] for _ in range(5))]
    found = {**TASK, "aux_choices": ["conv1", "conv2"], "drawn": drawn, "format": "tests/drawn/1"}
    result = {"default": -1.5, "time_s": 3.0, "images": 40, "search_result": found}
    records = [
        TrialRecord(parameters=search("drawing"), status="succeeded", result=result),
        trained("drawing-000", 0.6, given=CUT_AT_4_CONV1),
    ]
    unknown = page(records)  # as without the plug-in
    assert [each for each in captions(unknown) if "speaks" in each or "Evidence" in each] == []
    register_search(Drawing())
    try:
        text = page(records)
    finally:
        SEARCHES.remove("drawing")
    assert [each for each in captions(text) if "speaks" in each or "Evidence" in each] == [
        "What speaks for each block that ends with a cut",
        "Evidence against ideal speed-up",
    ]
    rows = re.findall(r"<tr>(.*?)</tr>", text, re.S)
    (row,) = (cells for cells in map(texts_of, rows) if "evidence at 7 boundaries" in cells)
    assert row == ["search", "evidence at 7 boundaries", "–", "–", "40", "3.0 s", "–"]


def texts_of(row: str) -> list[str]:
    cells = re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.S)
    return [html.unescape(re.sub(r"<.*?>", "", cell)).strip() for cell in cells]


@pytest.mark.slow(reason="draws every picture")
def test_deep_networks_have_an_image_for_tiles() -> None:
    losses = [[2.0 - 0.01 * i] * 4 for i in range(49)]
    result = ProbeResult(
        backbone="resnet152",
        dataset="cifar10",
        aux_choices=["conv1", "conv2", "conv3", "conv4"],
        losses=losses,
        undivided=2.0,
    )
    picture = evidence_map(result, [], "deep")
    assert "<image" in picture.svg
    assert len(picture.svg) < 100_000
    assert "cut after layer 48 with conv4: 1.520 nats" in local_loss_map(result, [], "low").svg


@pytest.mark.slow(reason="draws whole pages")
def test_a_study_shows_a_section_for_each_space_and_its_first_searches() -> None:
    lost = studied("random", 1, status="failed", reason="training <diverged>")
    rest = [studied(name, n, 0.5) for n in (0, 1) for name in ("probe", "backprop")]
    text = page([*rest, lost])
    assert re.findall(r"<h1>(.*?)</h1>", text) == [
        "vgg11 on digits, 2 blocks",
        "vgg11 on digits, 2 blocks within 1.5/K",
    ]
    assert captions(text).count("What speaks for each block that ends with a cut") == 2
    assert text.count("The first search of each kind is shown") == 2
    assert set(re.findall(r"<h3>(.*?search.*?)</h3>", text)) == {
        "probe&#39;s search of replicate e0 #0"
    }
    assert "backprop (n = 2)" in text
    assert "failed: random-001" in text
    assert "<pre>training &lt;diverged&gt;</pre>" in text
    assert "Tuning</h2>" not in text


@pytest.mark.slow(reason="draws whole pages")
def test_several_experiments_show_n_and_spread() -> None:
    text = page(full_experiment(), full_experiment(0.02))
    assert "sedona (n = 2)" in text
    assert "62.0 ± 1.4%" in text  # 61 and 63
    assert "its best trainings, n = 2" in text
    assert text.count("Where the search ended") == 2 * 2  # its name and its caption


def test_the_page_loads_nothing_and_runs_its_own_script_only(full_page: str) -> None:
    text = full_page
    links = re.findall(r"(?:src|href)=[\"']([^\"']*)", text)
    assert {link.split(",")[0].split(";")[0] for link in links if not link.startswith("#")} <= {
        "data:",
        "data:image/png",
    }
    assert "@import" not in text
    assert not re.findall(r"url\((?!#)", text)
    assert re.search(r"Content-Security-Policy\" content=\"default-src 'none'; ", text)
    assert text.count("<script") == 1


@pytest.mark.slow(reason="draws every picture")
def test_hostile_names_are_escaped_everywhere() -> None:
    nasty = {"strategy": HOSTILE, "hyperparameters": {HOSTILE: HOSTILE, "lr": 0.1}}
    records = [
        trained("a-000", 0.5, **ALL),
        TrialRecord(
            parameters=record("b-000").parameters.model_copy(update={**nasty, "key": HOSTILE}),
            status="succeeded",
            result=trained("b-000", 0.6, **ALL).result,
        ),
        record("c-000", status="failed", reason=HOSTILE, given={"decoupling": CUT}),
    ]
    sources = [Source(HOSTILE, records)]
    text = render(build_report(sources, importance), HOSTILE)
    assert "alert(1)" in text
    assert text.count("<script") == 1
    assert "49" not in re.findall(r"&lt;script.{0,60}", text)[0]
    outside = re.sub(r"<svg .*?</svg>", "", text, flags=re.S)
    assert "</svg>" not in outside
    written = set()
    for picture in re.findall(r"<svg .*?</svg>", text, re.S):
        written |= {element.text for element in ElementTree.fromstring(picture).iter()}
    assert HOSTILE in written  # as it is: neither cut short nor set as a formula


@pytest.mark.fast_cases(6)
@pytest.mark.parametrize(
    "records",
    [
        [record("uniform-000")],
        [record("uniform-000", status="failed", reason="x")],
        [searched()],
        [probed()],
        [TrialRecord(parameters=probed().parameters)],
        [TrialRecord(parameters=searched().parameters)],
        [TrialRecord(parameters=searched().parameters, status="failed", reason="lost")],
        [trained("uniform-000", 0.5)],
        [trained("uniform-000", 0.0, 0.0, images=None, time_s=0.0)],
        [trained("backprop-000", 0.5, given={"decoupling": {"backbone": "vgg11"}}, **ALL)],
    ],
    ids=[
        *("running", "failed", "search", "probing", "probing still", "searching", "lost"),
        *("bare", "free", "one"),
    ],
)
@pytest.mark.parametrize("more", [{}, {"is_running": True, "planned": 5}])
def test_little_or_nothing_to_show(records: list[TrialRecord], more: dict[str, Any]) -> None:
    text = page(records, **more)
    assert text.count("<h2") >= 6
    state = "is running: " if more else "is unfinished: "
    ended = sum(record.status != "running" for record in records)
    open_ = any(record.status == "running" for record in records)
    assert (f"experiment e0 {state}{ended}" in text) == bool(more or open_)
    if records[0].is_search and records[0].status == "failed":
        assert "<pre>lost</pre>" in text


def test_a_strategy_looks_the_same_in_every_report() -> None:
    assert styles(["backprop", "sedona"])["sedona"] == styles(["sedona"])["sedona"]
    looks = styles(["sedona-k2", "sedona-k4", "mine", "backprop"])
    assert looks["sedona-k2"].number == looks["sedona-k4"].number == 0
    assert looks["sedona-k2"].dash != looks["sedona-k4"].dash
    assert looks["sedona-k2"].marker != looks["sedona-k4"].marker
    assert len({look.number for look in looks.values()}) == 3
    leading = styles(["sedona", "sedona-2", "sedona-k4-2"])
    assert {look.number for look in leading.values()} == {0}
    assert len({look.dash for look in leading.values()}) == 3
    many = styles([f"s{n}" for n in range(20)])
    assert {look.number for look in many.values()} == set(range(NUM_COLOURS))


def test_times_have_a_unit_that_suits_them() -> None:
    assert seconds(119) == "119.0 s"
    assert seconds(120) == "2.0 min"
    assert seconds(Spread.of([7200, 10800])) == "2.5 ± 0.7 h"
    assert seconds(None) == "–"


def test_the_table_of_a_terminal() -> None:
    def table(*experiments: list[TrialRecord]) -> tuple[list[str], list[list[str]]]:
        sources = [Source(f"e{n}", records) for n, records in enumerate(experiments)]
        return summary_table(build_report(sources, importance).groups[0])

    headings, rows = table(full_experiment())
    assert headings[1] == "decoupling"
    assert rows[0] == [
        *("sedona", "cut after layer 4 (conv2)", "61.0%", "51.0%", "1.33×", "6 MiB"),
        *("5.0 s", "10.0 s", "70.0 s", "12"),
    ]
    assert rows[1][-1] == "1 (1 failed)"
    headings, rows = table(full_experiment(), full_experiment(0.02))
    assert headings[1] == "n"
    assert rows[0][1:3] == ["2", "62.0 ± 1.4%"]


@pytest.mark.slow(reason="draws a thousand trainings")
def test_a_thousand_trainings_have_a_page_of_bearable_size() -> None:
    """Of many points of a curve, those get a mark where something changes."""
    few, many = (
        page([trained(f"uniform-{n:03d}", 0.5 + (n % 97) / 500) for n in range(number)])
        for number in (100, 1000)
    )
    titles = re.compile(r"<title>uniform: [\d.]+% after")
    assert len(titles.findall(few)) == 4 * 100  # over images and time, validation and test
    assert len(titles.findall(many)) == 4 * 98  # the first 97 are ever better; and the last
    assert len(many) < 10 * len(few)
    assert len(many) < 2_000_000
    assert many.count("uniform-999") >= 1
