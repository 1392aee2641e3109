"""``benchmarks.hostile``: a sample of what ``python -m benchmarks hostile`` does by the hundreds.

python -m benchmarks hostile --seed 1 --first 17 --count 1     # a single one again
"""

from __future__ import annotations

import os
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.hostile.campaign import KINDS, campaign, hostile_tables
from benchmarks.hostile.promise import broken, tree_of
from benchmarks.hostile.server import Ended
from benchmarks.hostile.typed import change_environment, change_words
from benchmarks.hostile.world import READERS, Reader, Scene

SAMPLE = 60
GOOD = Ended(0, "", "", (), 0.1)
REFUSED = replace(GOOD, code=2, err="sedona-nni: x.json: is not valid JSON (no)\n")


@pytest.mark.slow(reason="60 commands, and what they read")
def test_a_sample_is_refused_in_one_line_or_used() -> None:
    done = campaign(1, range(1, SAMPLE + 1), lambda line: print(line, file=sys.stderr))
    assert [f"{each.number}: {each.in_words}" for each in done if each.reason is not None] == []
    assert len(done) == SAMPLE
    assert len({each.kind for each in done}) > 8
    assert {each.code for each in done} >= {0, 2}
    assert [table.rows[0][1] for table in hostile_tables(done)]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    for name in ("work", "home", "tmp", "outside"):
        (tmp_path / name).mkdir()
    (tmp_path / "work" / "given.json").write_text("{}")
    (tmp_path / "outside" / "precious.txt").write_text("precious")
    return Scene(tmp_path)


READER = Reader(("describe", "--json"), ("work/given.json",), writes=("work/made.json",))
JSON = replace(GOOD, out="{}")


def make(scene: Scene, name: str, text: str) -> None:
    (scene.work / name).write_text(text)


@pytest.mark.parametrize(
    ("ended", "files", "reason"),
    [
        (JSON, {"made.json": "{}"}, None),
        (REFUSED, {}, None),
        (replace(REFUSED, code=1), {"begun.json": "{}"}, None),
        (replace(GOOD, code=None), {}, "it hangs"),
        (replace(GOOD, code=-9), {}, "exit code -9"),
        (replace(REFUSED, left=("sleep 9",)), {}, "processes are left: sleep 9"),
        (replace(REFUSED, err=f"{REFUSED.err}more\n"), {}, "2 lines of complaint"),
        (replace(REFUSED, err=""), {}, "0 lines of complaint"),
        (replace(REFUSED, err="x.json: no\n"), {}, "not a line of ours: x.json: no"),
        (replace(REFUSED, err=f"sedona-nni: x: {'y' * 9999}\n"), {}, "a line of "),
        (replace(REFUSED, err="sedona-nni: \x1b[31mx: no\n"), {}, "control characters are printed"),
        (
            replace(REFUSED, err="Traceback (most recent call last):\n  x\nKeyError: 1\n"),
            {},
            "a traceback: KeyError: 1",
        ),
        (REFUSED, {"made.json": "{}"}, "refused, but changed work/made.json"),
        (REFUSED, {"given.json": "[]"}, "refused, but changed work/given.json"),
        (REFUSED, {"../outside/precious.txt": "gone"}, "changed outside of where it has to write"),
        (REFUSED, {"../tmp/left": ""}, "changed outside of where it has to write: tmp/left"),
        (JSON, {}, "succeeded, but there is no work/made.json"),
        (JSON, {"made.json": "{"}, "by halves: work/made.json"),
        (JSON, {"made.json": '{"x": NaN}'}, "by halves: work/made.json"),
        (
            JSON,
            {"made.json": "{}", ".made.json.abcd1234": ""},
            "by halves: work/.made.json.abcd1234",
        ),
        (replace(GOOD, out="[NaN]"), {"made.json": "{}"}, "what it printed is not JSON"),
        (replace(JSON, err="oh\n"), {"made.json": "{}"}, "said beside a result: oh"),
        (
            JSON,
            {"made.json": "{}", "page.html": "<p title='a' hostile='1'>"},
            "in the page, a name became an element p",
        ),
        (JSON, {"made.json": "{}", "page.html": "<p>&lt;hostile&gt;</p>"}, None),
    ],
)
def test_a_broken_promise_is_seen(
    ended: Ended, files: dict[str, str], reason: str | None, scene: Scene
) -> None:
    before = tree_of(scene)
    for name, text in files.items():
        make(scene, name, text)
    found = broken(READER, scene, before, ended)
    assert found == reason if reason is None else str(found).startswith(reason)


def test_what_a_mutation_does_depends_on_its_number_alone() -> None:
    def some() -> list[object]:
        words = READERS["train"].words
        sources = [random.Random(f"1/{number}") for number in range(50)]
        return [(change_words(each, words), change_environment(each)) for each in sources]

    assert some() == some()


def test_a_link_is_not_followed_to_see_what_has_changed(scene: Scene) -> None:
    (scene.work / "link").symlink_to("/proc")
    os.mkfifo(scene.work / "fifo")
    tree = tree_of(scene)
    assert tree["work/link"] == "link to '/proc'"
    assert tree["work/fifo"] == "special"


def test_every_kind_of_mutation_has_a_row() -> None:
    assert [row[0] for row in hostile_tables([])[0].rows] == [*KINDS]
