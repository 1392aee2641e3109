"""`benchmarks.tabular.ablation`: forms of probing, put together of losses that were kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clocked_table import table

from benchmarks.record import header
from benchmarks.tabular.__main__ import main
from benchmarks.tabular.ablation import FORMS, Form, ablate, applied
from benchmarks.tabular.probe_losses import NUM_REFERENCES, ProbeLosses, probe_losses
from benchmarks.tabular.search import search
from benchmarks.tabular.table import Table
from sedona_nni.errors import InputError
from sedona_nni.searches.probing.probing import ProbeSettings
from sedona_nni.searches.probing.result import ProbeResult
from sedona_nni.task import Task
from sedona_nni.training.settings import TrainSettings

AUX = ("conv1", "conv2")
TINY = table().model_copy(
    update={
        "aux_choices": AUX,
        "task": Task(backbone="vgg11", width_multiplier=0.0625, train_limit=60),
        "train": TrainSettings(epochs=10, batch_size=8, validation_fraction=0.5),
    }
)


def seen(steps: int = 20, **changes: Any) -> ProbeLosses:
    """Losses of probes that get better the further up the cut is, with noise."""
    rng, rows = np.random.default_rng(1), 7 * len(AUX)
    rise = np.repeat(np.linspace(2, 1, 7), len(AUX))[:, None]
    losses = rise + rng.uniform(0, 0.2, (rows, steps))
    return ProbeLosses(
        header=header(n=1),
        task=TINY.task,
        aux_choices=AUX,
        **{
            "seed": 1,
            "batch_size": 8,
            "schedule": "constant",
            "undivided": rng.uniform(1, 2, (NUM_REFERENCES, steps)).tolist(),
            "losses": losses.tolist(),
            "processor_s": [2.0] * NUM_REFERENCES + [1.0] * rows,
            "training_step_s": 0.5,
            **changes,
        },
    )


@pytest.mark.slow(reason="a probing, and the same in one go")
def test_probings_own_form_is_what_probing_does() -> None:
    found = search(TINY, "probe", ProbeSettings(cost=8, seed=31))
    assert isinstance(found, ProbeResult)
    steps = found.provenance["steps"]
    kept = probe_losses(TINY, header(n=1), 31, steps=steps + 5)
    again, seconds = applied(Form(steps), kept)
    # Losses are kept to five digits
    np.testing.assert_allclose(again.losses, found.losses, atol=2e-5)
    assert again.undivided == pytest.approx(found.undivided, abs=2e-5)
    assert seconds > 0


def test_one_rung_by_hand() -> None:
    losses = seen()
    result, seconds = applied(Form(10), losses)
    expected = losses.of_cuts[:, :, 5:10].mean(axis=2)
    np.testing.assert_allclose(result.losses, expected)
    assert result.undivided == pytest.approx(np.mean(losses.undivided[0][5:10]))
    # 20 steps took a cut's probe 1 s and the undivided backbone 2 s
    assert seconds == pytest.approx(10 / 20 * (2 + 7 * len(AUX)))
    four, more = applied(Form(10, references=4), losses)
    assert four.undivided == pytest.approx(np.mean(np.array(losses.undivided)[:, 5:10]))
    assert more - seconds == pytest.approx(10 / 20 * 3 * 2)


def test_two_rungs_by_hand() -> None:
    losses = seen()
    form = Form(4, 20, lambda halves: [[0]] * len(halves))
    result, seconds = applied(form, losses)
    final = losses.of_cuts[:, 0, 10:].mean(axis=1)
    np.testing.assert_allclose(np.array(result.losses)[:, 0], final)
    first = losses.of_cuts[:, :, 2:4].mean(axis=2)
    behind = first[:, 1] - first[:, 0]
    np.testing.assert_allclose(np.array(result.losses)[:, 1], final + behind)
    assert seconds == pytest.approx(4 / 20 * (2 + 7 * len(AUX)) + 16 / 20 * (2 + 7))


def test_who_goes_on_by_hand() -> None:
    steady = np.array([0.0, 0.1, -0.1, 0.2, -0.2])
    at_boundary = 2 + np.stack([0.3 + steady, steady, 0.02 + steady[::-1], 1 + steady, 0 * steady])
    # Means 2.3, 2, 2.02, 3, 2: the better three are 1 and 4 (equal) and 2, which with errors
    # of 0.14 of the difference is 0.02 behind; 1 is the best, as the first of equals
    assert Form(1).going_on(at_boundary[None]) == [[1, 4, 2]]
    # Paired with itself a constant lag has no error: clearly behind, however small
    lag = np.stack([steady, 0.001 + steady, 1 + steady])
    assert Form(1).going_on(lag[None]) == [[0]]


def test_forms_are_judged_as_far_as_the_losses_go() -> None:
    of_twenty = ablate(TINY, [seen(), seen(seed=2)])
    assert set(of_twenty) == {name for name, form in FORMS.items() if _length(form) <= 20}
    agreements, cost = of_twenty["20 steps"]
    assert len(agreements) == 2
    # 30 of 60 images are learned from, in 4 batches, 10 times
    assert cost == pytest.approx((2 + 7 * len(AUX)) / (40 * 0.5))
    at_cosine = ablate(TINY, [seen(schedule="cosine")])
    of_that_length = {
        name for name, form in FORMS.items() if form.steps == 20 and form.longer is None
    }
    assert set(at_cosine) == of_that_length


def _length(form: Form) -> int:
    return max(form.steps, form.longer or 0)


def test_other_losses_are_refused() -> None:
    with pytest.raises(InputError, match="must be of one batch size, schedule and length"):
        ablate(TINY, [seen(), seen(batch_size=4)])
    with pytest.raises(InputError, match="task: must be that of the table"):
        ablate(TINY, [seen().model_copy(update={"task": Task(backbone="vgg11")})])
    with pytest.raises(ValueError, match="as many steps in each row"):
        seen(undivided=[[1.0]])


@pytest.mark.slow(reason="probes")
def test_the_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.json"
    path.write_text(TINY.model_dump_json())
    options = ["--table", str(path)]
    arguments = ["probe-losses", "--seeds", "31,32", "--steps", "10", "--directory", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["benchmarks.tabular", *arguments, *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    paths = [str(tmp_path / f"{seed}.json") for seed in (31, 32)]
    kept = ProbeLosses.load(Path(paths[0]))
    assert Table.load(path).aux_choices == kept.aux_choices
    assert kept.header.command.startswith("python -m benchmarks.tabular probe-losses --seeds 31,")
    capsys.readouterr()
    shown = ["ablate", *paths, *options, "--json"]
    monkeypatch.setattr("sys.argv", ["benchmarks.tabular", *shown])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    found = json.loads(capsys.readouterr().out)["ablation"]
    assert [*found] == ["10 steps", "10 steps, not smoothed"]
