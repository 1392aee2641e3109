"""`sedona_nni.strategies.grid` under NNI's own dispatcher, and trials of several trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sedona_nni.decouplings.decoupling import Decoupling, every_decoupling
from sedona_nni.errors import InputError
from sedona_nni.reporting.ledger import Ledger
from sedona_nni.strategies.checkpoint import LEDGER_FILE
from sedona_nni.strategies.grid import GridTuner
from sedona_nni.strategies.settings.gridded import grid_decouplings, read_grid
from sedona_nni.training.settings import TrainSettings
from sedona_nni.trials.repeated import repeated

GRID: dict[str, Any] = {
    "task": {"backbone": "vgg11"},
    "aux": ["conv1", "mlp"],
    "train": {"seed": 4},
    "parts": [
        {"num_blocks": 1, "seeds": 5},
        {"num_blocks": 3, "sample": 3},
        {"num_blocks": 2, "seeds": 2},
    ],
}


def test_every_decoupling_once_in_order() -> None:
    found = every_decoupling("vgg11", 4, 3, ["a", "b"])
    assert len(found) == len(set(found)) == 3 * 4
    assert [(each.cuts, each.aux) for each in (found[0], found[1], found[-1])] == [
        ([0, 1], ["a", "a"]),
        ([0, 1], ["a", "b"]),
        ([1, 2], ["b", "b"]),
    ]
    assert every_decoupling("vgg11", 4, 1, ["a"]) == [Decoupling(backbone="vgg11")]


def test_the_whole_grid_is_trained_and_no_more(dispatch: Any) -> None:
    """Also when it is interrupted: what was handed out is not handed out again."""
    nni = dispatch(GridTuner(**GRID))
    nni.initialize({})
    nni.request()
    for _ in range(5):
        nni.succeed(nni.started[-1])
    resumed = dispatch(GridTuner(**GRID))
    resumed.initialize({})
    resumed.request()
    for _ in range(18 - 5):  # first the sixth, which was under way
        assert not resumed.ended
        resumed.succeed(resumed.started[-1])
    assert resumed.ended
    records = list(Ledger(resumed.folder / LEDGER_FILE))
    trained = [record.parameters.decoupling for record in records]
    assert len(trained) == len(set(trained)) == 1 + 3 + 14
    assert [each.num_blocks for each in trained] == [1] + 3 * [3] + 14 * [2]
    assert {record.parameters.train["seed"] for record in records} == {4}
    repetitions = [record.parameters.repetitions for record in records]
    assert repetitions == [5] + 3 * [1] + 14 * [2]
    assert records[0].strategy == "backprop"
    assert resumed.source.settings.num_trials == 18


def test_what_an_earlier_run_has_trained_is_left_out(dispatch: Any, tmp_path: Path) -> None:
    """With as many seeds: what a part wants more of is trained again; keys stay those of the grid,
    so that an interrupted run goes on with whatever ledgers it is given."""
    first = dispatch(GridTuner(**GRID))
    first.initialize({})
    first.request()
    for _ in range(4):
        first.succeed(first.started[-1])
    ledger = tmp_path / "earlier.jsonl"
    ledger.write_bytes((first.folder / LEDGER_FILE).read_bytes())
    earlier = [r.parameters.decoupling for r in Ledger(ledger) if r.result is not None]
    assert len(earlier) == 4
    more = {**GRID, "trained": [str(ledger)]}
    settings = read_grid(more, tmp_path)
    assert settings.num_trials == 18 - 4
    assert settings.trainings == {"grid-k2": 14}
    assert {decoupling for _, _, decoupling in settings.wanted}.isdisjoint(earlier)
    assert [number for number, _, _ in settings.wanted] == [*range(4, 18)]
    parts = [{"num_blocks": 1, "seeds": 6}, *GRID["parts"][1:]]
    assert read_grid({**more, "parts": parts}, tmp_path).trainings == {"backprop": 1, "grid-k2": 14}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trained": ["nowhere.jsonl"]}, "trained: must be ledgers, trials.jsonl, but got '"),
        ({"train": {"seed": 4, "lr": 0.5}}, "trained: must have the same task and training, but b"),
        ({"parts": [{"num_blocks": 1}]}, "trained: must leave something to train, but got"),
    ],
)
def test_earlier_runs_that_are_not_alike(
    dispatch: Any, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    first = dispatch(GridTuner(**GRID))
    first.initialize({})
    first.request()
    first.succeed(first.started[-1])
    (tmp_path / "earlier.jsonl").write_bytes((first.folder / LEDGER_FILE).read_bytes())
    with pytest.raises(InputError, match=f"^{message}"):
        read_grid({**GRID, "trained": ["earlier.jsonl"], **changes}, tmp_path)


def test_a_sample_is_the_same_each_time_and_the_seed_decides() -> None:
    def sample(seed: int) -> list[Decoupling]:
        settings = read_grid({**GRID, "seed": seed}, Path())
        return grid_decouplings(settings.training, settings.grid.parts[1])

    assert sample(1) == sample(1) != sample(2)
    assert len(set(sample(1))) == 3


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"num_blocks": 9}, "num_blocks: must be from 1 to the number of layers, 8"),
        ({"num_blocks": 2, "sample": 15}, r"parts.1.sample: must be at most 14, .* got 15"),
    ],
)
def test_a_part_that_cannot_be(tmp_path: Path, part: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_grid({**GRID, "parts": [{"num_blocks": 1}, part]}, tmp_path)


def test_repeated_trainings_and_their_means(tmp_path: Path) -> None:
    seen = []

    def train(settings: TrainSettings, directory: Path) -> dict[str, Any]:
        seen.append((settings.seed, directory))
        return {"default": settings.seed / 10, "sizes": [1, settings.seed]}

    found = repeated(train, TrainSettings(seed=3), 2, tmp_path)
    assert seen == [(3, tmp_path / "seed-3"), (4, tmp_path / "seed-4")]
    assert found["default"] == pytest.approx(0.35)
    assert found["sizes"] == [1, 3]
    assert found["runs"] == [
        {"seed": 3, "default": 0.3, "sizes": [1, 3]},
        {"seed": 4, "default": 0.4, "sizes": [1, 4]},
    ]
