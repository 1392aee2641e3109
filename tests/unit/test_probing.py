"""`sedona_nni.probing`, its result and its trial."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge

from sedona_nni.backbones import build_backbone
from sedona_nni.balance import BlockBound, discretise, pareto_front
from sedona_nni.compute import Compute, compute_in_macs
from sedona_nni.data import Splits, load_splits
from sedona_nni.decoupled import build_decoupled
from sedona_nni.decoupling import Decoupling, ProbeResult, load_decoupling, load_document
from sedona_nni.errors import InputError
from sedona_nni.files import read_json
from sedona_nni.probing import ProbeSettings, local_accuracy, probe_steps, probes
from sedona_nni.task import Task
from sedona_nni.training import TrainSettings, train
from trials.probe import run_probes

AUX = ["conv1", "conv2"]
TASK = Task(backbone="vgg11", dataset="digits", width_multiplier=0.125, train_limit=400)
TRAIN = TrainSettings(epochs=2, batch_size=32, lr=0.02, lr_min=0, validation_fraction=0.5)


ADAM = {"epochs": 1, "optimizer": "adam", "lr": 0.01}


def found(accuracies: list[list[float]], **changes: Any) -> ProbeResult:
    fields: dict[str, Any] = {
        "backbone": "vgg11",
        "dataset": "digits",
        "aux_choices": AUX,
        "undivided": 0.1,
    }
    fields |= changes
    return ProbeResult(accuracies=accuracies, **fields)


def random_result(seed: int) -> ProbeResult:
    return found(np.random.default_rng(seed).uniform(0.1, 0.9, (7, 2)).round(4).tolist())


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_splits(TASK, TRAIN.validation_fraction)


@pytest.fixture(scope="module")
def compute() -> Compute:
    with torch.device("meta"):
        return compute_in_macs(vgg(), AUX)


def vgg() -> Any:
    return build_backbone(
        "vgg11", num_classes=10, in_channels=3, image_size=32, width_multiplier=0.125
    )


class TestResult:
    def test_smoothing_is_kernel_ridge_regression(self) -> None:
        """Which is the posterior mean of a Gaussian process; by another's implementation."""
        result = random_result(0)
        places = list(itertools.product(range(7), range(2)))
        kernel = [
            [np.exp(-((i - j) ** 2) / 8) * (1.0 if b == c else 0.5) for j, c in places]
            for i, b in places
        ]
        values = np.ravel(result.accuracies)
        standard = (values - values.mean()) / values.std()
        ridge = KernelRidge(alpha=0.3, kernel="precomputed").fit(kernel, standard)
        expected = values.mean() + values.std() * ridge.predict(kernel)
        np.testing.assert_allclose(result.smoothed().ravel(), expected, atol=1e-10)

    @pytest.mark.parametrize("undivided", [0.1, 0.95])
    def test_evidence_by_hand(self, undivided: float) -> None:
        result = random_result(1).model_copy(update={"undivided": undivided})
        smoothed = result.smoothed()
        for i, c in itertools.product(range(7), range(2)):
            shortfall = max(undivided, *smoothed.ravel()) - smoothed[i, c]
            assert result.evidence[i, c] == pytest.approx(-(i + 1) / 8 * shortfall)
        assert result.margins().tolist() == [max(row) for row in result.evidence]
        assert result.preferred_aux(3) == AUX[int(result.evidence[3, 1] > result.evidence[3, 0])]

    def test_the_best_signal_has_no_shortfall_and_a_weak_one_matters_less_low_down(self) -> None:
        accuracies = [[0.2, 0.2] for _ in range(7)]
        accuracies[4] = [0.2, 0.8]
        result = found(accuracies)
        assert result.evidence.max() == 0 == result.evidence[4, 1]
        assert result.evidence[0, 0] > result.evidence[6, 0]

    def test_nothing_observed_is_nothing_preferred(self) -> None:
        result = found([[0.1, 0.1]] * 7)
        assert not result.evidence.any()
        assert result.decoupling(3).cuts == [0, 1]

    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("share", ["1.45/K", "1.7/K"])
    def test_the_choice_is_the_best_of_all_within_a_bound(
        self, compute: Compute, seed: int, share: str
    ) -> None:
        result, bound = random_result(seed), BlockBound(compute, share)
        best = max(
            float(result.margins()[list(cuts)].sum())
            for cuts in itertools.combinations(range(7), 2)
            if bound.respects(result.at(list(cuts), {}))
        )
        chosen = discretise(result, 3, bound)
        assert bound.respects(chosen)
        assert result.margins()[chosen.cuts].sum() == pytest.approx(best, abs=1e-12)
        front = pareto_front(result, 3, compute)
        assert front[0].decoupling == result.decoupling(3)

    def test_it_does_not_tell_how_many_blocks(self, compute: Compute) -> None:
        for derive in (
            lambda: random_result(0).decoupling(0),
            lambda: discretise(random_result(0), 0, BlockBound(compute, "1.5/K")),
        ):
            with pytest.raises(InputError, match=r"num_blocks: must be at least 1 .* but got 0"):
                derive()

    def test_files(self, tmp_path: Path) -> None:
        result = random_result(2)
        result.save(tmp_path / "probe.json")
        assert load_document(tmp_path / "probe.json") == result
        assert load_decoupling(tmp_path / "probe.json", 3) == result.decoupling(3)

    @pytest.mark.parametrize("accuracies", [[[0.1]], [[0.1, 1.2]], [], [[0.1, float("nan")]]])
    def test_what_is_no_result(self, accuracies: Any) -> None:
        with pytest.raises(ValueError, match="accuracies"):
            found(accuracies)


class TestLength:
    def test_steps_cost_what_is_allowed_and_one_more_costs_more(
        self, compute: Compute, splits: Splits
    ) -> None:
        """Counted one by one: 200 images learn, 200 validate, in 7 steps per epoch."""
        lower = [compute.blocks(each)[0] for each in probes("vgg11", 8, AUX)]
        assert len(lower) == 1 + 14
        assert lower[0] == compute.total
        full = 2 * compute.total * (7 * 32 * 3 + 200)
        steps, cost = probe_steps(compute, ProbeSettings(cost=3), TRAIN, splits)
        for length, fits in ((steps, True), (steps + 1, False)):
            spent = sum(macs * (length * 32 * 3 + 200) for macs in lower) / full
            assert (spent <= 3) == fits
            if fits:
                assert cost == pytest.approx(spent)

    def test_too_little(self, compute: Compute, splits: Splits) -> None:
        with pytest.raises(InputError, match=r"probe\.cost: must be at least \d") as error:
            probe_steps(compute, ProbeSettings(cost=0.01), TRAIN, splits)
        least = float(str(error.value).split("at least ")[1].split()[0])
        assert probe_steps(compute, ProbeSettings(cost=least + 0.01), TRAIN, splits)[0] == 1


def test_a_probe_is_the_lower_block_of_a_training(splits: Splits) -> None:
    """What is above a cut does not matter to what is below."""
    probe = Decoupling(backbone="vgg11", cuts=[3], aux=["conv1"])
    together, alone = [], []
    for seed in (5, 6, 7):
        settings = TRAIN.model_copy(update={**ADAM, "seed": seed})
        reported: list[dict[str, float]] = []
        torch.manual_seed(0)
        train(build_decoupled(vgg(), probe), splits, settings, report=reported.append)
        together.append(reported[0]["block_1_accuracy"])
        torch.manual_seed(0)
        alone.append(local_accuracy(vgg(), probe, splits, settings, 7, torch.device("cpu")))
    assert alone == together
    assert len(set(alone)) == 3


class TestTrial:
    SETTINGS = ProbeSettings(cost=2.5, seed=3)

    def run(self, directory: Path | None = None, **changes: Any) -> dict[str, Any]:
        return run_probes(TASK, TRAIN, self.SETTINGS, aux=AUX, directory=directory, **changes)

    def test_an_interrupted_probing_ends_as_another_does(self, tmp_path: Path) -> None:
        seen: list[dict[str, float]] = []

        def interrupt(numbers: dict[str, float]) -> None:
            seen.append(numbers)
            if len(seen) == 5:
                raise KeyboardInterrupt

        torch.manual_seed(1)
        state = torch.get_rng_state()
        whole = self.run()
        assert torch.equal(torch.get_rng_state(), state)
        with pytest.raises(KeyboardInterrupt):
            self.run(tmp_path, report=interrupt)
        assert not (tmp_path / "results.json").exists()
        seen = [{}] * 10  # let it pass
        torch.manual_seed(2)
        result = self.run(tmp_path, report=seen.append)
        assert result["search_result"] == whole["search_result"]
        assert [numbers["step"] for numbers in seen[10:]] == list(range(1, 16))
        assert result["default"] == seen[-1]["default"] == max(accuracies(result))
        assert result["trainings"] <= 2.5
        assert result["images"] == 15 * 32 * result["steps"]
        assert not (tmp_path / "progress.json").exists()
        assert self.run(tmp_path) == result == read_json(tmp_path / "results.json")

    def test_another_probing_needs_another_directory(self, tmp_path: Path) -> None:
        (tmp_path / "run.json").write_text("{}")
        with pytest.raises(InputError, match=r"run\.json"):
            self.run(tmp_path)


def accuracies(result: dict[str, Any]) -> list[float]:
    content = result["search_result"]
    return [content["undivided"], *itertools.chain(*content["accuracies"])]
