"""`sedona_nni.searches.probing.probing`, its result and its trial."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge

from sedona_nni.data.batches import Batch, BatchStream
from sedona_nni.data.sets import Splits, load_splits
from sedona_nni.decouplings.bounds import BlockBound
from sedona_nni.decouplings.choice import discretise, evidence, leaders, pareto_front
from sedona_nni.decouplings.compute import Compute, compute_in_macs
from sedona_nni.decouplings.decoupled import build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.files import read_json
from sedona_nni.models import build_backbone
from sedona_nni.searches.documents import load_decoupling, load_document
from sedona_nni.searches.probing.probing import (
    ProbeSettings,
    local_losses,
    probe_steps,
    probes,
)
from sedona_nni.searches.probing.result import ProbeResult
from sedona_nni.task import Task
from sedona_nni.teachers.auxiliary import auxiliary_names, views_for
from sedona_nni.teachers.losses import LabelSmoothing
from sedona_nni.training import loop
from sedona_nni.training.loop import DivergedError, train
from sedona_nni.training.settings import TrainSettings
from sedona_nni.trials.search import run_search

AUX = ["conv1", "conv2"]
TASK = Task(backbone="vgg11", dataset="digits", width_multiplier=0.125, train_limit=400)
TRAIN = TrainSettings(epochs=2, batch_size=32, lr=0.02, lr_min=0, validation_fraction=0.5)


ADAM = {"epochs": 1, "optimizer": "adam", "lr": 0.01}


def found(losses: list[list[float]], undivided: float = 3.0) -> ProbeResult:
    return ProbeResult(
        backbone="vgg11", dataset="digits", aux_choices=AUX, losses=losses, undivided=undivided
    )


def random_result(seed: int, undivided: float = 3.0) -> ProbeResult:
    losses = np.random.default_rng(seed).uniform(0.5, 2.5, (7, 2)).round(4)
    return found(losses.tolist(), undivided)


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
        values = np.ravel(result.losses)
        standard = (values - values.mean()) / values.std()
        ridge = KernelRidge(alpha=0.3, kernel="precomputed").fit(kernel, standard)
        expected = values.mean() + values.std() * ridge.predict(kernel)
        np.testing.assert_allclose(result.smoothed().ravel(), expected, atol=1e-10)

    @pytest.mark.parametrize("undivided", [0.2, 3.0])
    def test_evidence_by_hand(self, undivided: float) -> None:
        result = random_result(1, undivided)
        smoothed = result.smoothed()
        best = min(undivided, *smoothed.ravel())
        for below, cut in itertools.combinations(range(-1, 7), 2):
            assert result.evidence()[below + 1, cut] == pytest.approx(
                -(cut - below) / 8 * (smoothed[cut] - best)
            )
        second = int(smoothed[3, 1] < smoothed[3, 0])
        assert result.ranked_aux(3) == [AUX[second], AUX[1 - second]]
        assert result.preferred_aux(3) == AUX[second]

    def test_the_best_signal_has_no_shortfall(self) -> None:
        losses = [[2.2, 2.2] for _ in range(7)]
        losses[4] = [2.2, 1.0]
        for undivided, best in ((3.0, 4), (1.0, 0)):
            result = found(losses, undivided)
            assert discretise(result, 2).cuts == [best]
        assert found(losses).evidence()[:, 4, 1].tolist() == [0.0] * 7
        assert discretise(found(losses), 2).aux == ["conv2"]

    def test_nothing_observed_is_nothing_preferred(self) -> None:
        result = found([[2.3, 2.3]] * 7)
        assert not result.evidence().any()
        assert discretise(result, 3).cuts == [0, 1]

    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("undivided", [0.2, 3.0])
    def test_the_choice_is_the_best_of_all(
        self, compute: Compute, seed: int, undivided: float
    ) -> None:
        """With and without a bound, and of those with smaller blocks; by any auxiliary network."""
        result = random_result(seed, undivided)
        all_ = [
            result.at(list(cuts), {}, list(aux))
            for cuts in itertools.combinations(range(7), 2)
            for aux in itertools.product(AUX, repeat=2)
        ]

        def best(among: list[Decoupling]) -> float:
            return max(evidence(result, each) for each in among)

        bound = BlockBound(compute, "1.6/K")
        within = [each for each in all_ if bound.respects(each)]
        assert 0 < len(within) < len(all_)
        chosen = discretise(result, 3, bound)
        assert chosen in within
        assert evidence(result, chosen) == pytest.approx(best(within), abs=1e-12)
        assert evidence(result, discretise(result, 3)) == pytest.approx(best(all_), abs=1e-12)
        front = pareto_front(result, 3, compute)
        assert front[0].evidence == pytest.approx(best(all_), abs=1e-12)
        for point, after in itertools.pairwise(front):
            smaller = [e for e in all_ if compute.largest_share(e) < point.largest_share]
            assert after.evidence == pytest.approx(best(smaller), abs=1e-12)
        leading = leaders(result, 3, 4, bound)
        by_cuts = {
            tuple(each.cuts): best([e for e in within if e.cuts == each.cuts]) for each in within
        }
        found = [evidence(result, each) for each in leading]
        assert found == pytest.approx(sorted(by_cuts.values(), reverse=True)[:4], abs=1e-12)

    def test_a_bound_lets_a_lighter_network_stand_in(self, compute: Compute) -> None:
        """After a probing; SEDONA's search leaves a boundary its one preferred network."""
        losses = [[2.2, 2.2] for _ in range(7)]
        losses[4] = [1.2, 1.0]  # the heavier one is better
        result = found(losses, 2.0)
        shares = [compute.largest_share(result.at([4], {}, [name])) for name in AUX]
        assert discretise(result, 2) == result.at([4], {}, ["conv2"])
        assert shares[0] < shares[1]
        between = BlockBound(compute, f"{sum(shares) / 2:.4f}")
        assert discretise(result, 2, between) == result.at([4], {}, ["conv1"])

    def test_it_does_not_tell_how_many_blocks(self, compute: Compute) -> None:
        for derive in (
            lambda: discretise(random_result(0), 0),
            lambda: discretise(random_result(0), 0, BlockBound(compute, "1.5/K")),
        ):
            with pytest.raises(InputError, match=r"num_blocks: must be at least 1 .* but got 0"):
                derive()

    def test_files(self, tmp_path: Path) -> None:
        result = random_result(2)
        result.save(tmp_path / "probe.json")
        assert load_document(tmp_path / "probe.json") == result
        assert load_decoupling(tmp_path / "probe.json", 3) == discretise(result, 3)

    @pytest.mark.parametrize("losses", [[[0.1]], [[0.1, -1.2]], [], [[0.1, float("nan")]]])
    def test_what_is_no_result(self, losses: Any) -> None:
        with pytest.raises(ValueError, match="losses"):
            found(losses)


STEPS = 400  # of a training


class TestSteps:
    def test_a_step_more_would_cost_more(self, compute: Compute) -> None:
        tried = [*probes("vgg11", 8, AUX)]
        assert len(tried) == 1 + 14
        per_step = sum(compute.blocks(each)[0] for each in tried)
        steps, cost = probe_steps(compute, 3, STEPS)
        assert steps * per_step <= 3 * STEPS * compute.total < (steps + 1) * per_step
        assert cost == pytest.approx(steps * per_step / (STEPS * compute.total))

    def test_no_longer_than_a_training(self, compute: Compute) -> None:
        assert probe_steps(compute, 1000, STEPS)[0] == STEPS

    def test_too_little(self, compute: Compute) -> None:
        with pytest.raises(InputError, match=r"probe\.cost: must be at least \d") as error:
            probe_steps(compute, 0.01, STEPS)
        least = float(str(error.value).split("at least ")[1].split()[0])
        assert probe_steps(compute, least, STEPS)[0] == 8

    @pytest.mark.parametrize("steps", [3, 17, 100])
    def test_without_a_cost_short_trainings_are_probed_as_shortly_as_can_be(
        self, compute: Compute, steps: int
    ) -> None:
        found, cost = probe_steps(compute, None, steps)
        assert found == min(8, steps)
        assert cost > 0.25
        assert 0.24 < probe_steps(compute, None, 10_000)[1] <= 0.25

    def test_a_probe_trains_at_the_rate_that_trainings_begin_with(self) -> None:
        how = TrainSettings(
            batch_size=66,
            lr=0.2,
            lr_min=0.1,
            seed=1,
            epochs=9,
            warmup_epochs=2,
            method="sequential",
        )
        short = ProbeSettings(seed=7).short(how)
        assert (short.batch_size, short.lr, short.seed) == (66, 0.2, 7)
        assert (short.schedule, short.milestones, short.warmup_epochs) == ("multistep", [], 0)
        assert (short.method.name, short.epochs) == ("greedy", 1)


class TestLocalLoss:
    def test_it_is_that_of_the_lower_block_of_a_training(self, splits: Splits) -> None:
        """What is above a cut does not matter to what is below."""
        probe = Decoupling(backbone="vgg11", cuts=[3], aux=["conv1"])
        settings = TRAIN.model_copy(update={**ADAM, "seed": 5})
        torch.manual_seed(0)
        network = build_decoupled(vgg(), probe)
        seen: list[float] = []

        def note(module: Any, inputs: Any, logits: torch.Tensor) -> None:
            if module.training:
                criterion = LabelSmoothing(settings.label_smoothing)
                seen.append(float(criterion(logits.detach(), labels[len(seen)])))

        stream = BatchStream(splits.train, settings.batch_size, settings.seed, "cpu")
        labels = [batch[1] for _, batch in zip(range(7), stream.iterate(), strict=False)]
        network.blocks[0].classifier.register_forward_hook(note)  # type: ignore[union-attr]
        train(network, splits, settings)
        torch.manual_seed(0)
        alone = local_losses(vgg(), probe, splits, settings, 7, torch.device("cpu"))
        assert alone == pytest.approx(seen, rel=1e-5)
        assert len(seen) == 7

    def test_without_a_cut_it_is_that_of_back_propagation(self, splits: Splits) -> None:
        plain = Decoupling(backbone="vgg11")
        settings = TRAIN.model_copy(update={**ADAM, "seed": 5})
        torch.manual_seed(0)
        reported: list[dict[str, float]] = []
        train(build_decoupled(vgg(), plain), splits, settings, report=reported.append)
        torch.manual_seed(0)
        alone = local_losses(vgg(), plain, splits, settings, 7, torch.device("cpu"))
        # The mean of 7 steps; masks of dropout are others
        assert np.mean(alone[4:]) < reported[0]["train_loss"] < alone[0]

    def test_networks_with_a_loss_of_their_own_are_judged_like_others(self, splits: Splits) -> None:
        """PredSim's own loss is a hundredth of a cross-entropy."""
        probe = Decoupling(backbone="vgg11", cuts=[3], aux=["predsim"])
        torch.manual_seed(0)
        assert min(local_losses(vgg(), probe, splits, TRAIN, 2, torch.device("cpu"))) > 2

    @pytest.mark.parametrize("name", [*auxiliary_names(), "conv7"])
    def test_it_is_there_for_every_teacher(self, name: str, splits: Splits) -> None:
        """However it comes to its logits, also where a batch is taken in parts."""
        probe = Decoupling(backbone="vgg11", cuts=[3], aux=[name])
        views = views_for(name)
        parts = {"accumulate": 3 if views == 1 else 2, "views": views}
        settings = TRAIN.model_copy(update=parts)
        torch.manual_seed(0)
        found = local_losses(vgg(), probe, splits, settings, 2, torch.device("cpu"))
        assert min(found) > 1.5
        assert max(found) < 10

    def test_every_step_drops_something_else(self, splits: Splits) -> None:
        """As in a training; else a probe would train one part of the network alone."""
        backbone, seen = vgg(), set()

        def note(*_: object) -> None:
            seen.add(tuple(torch.get_rng_state().tolist()))

        dropouts = [each for each in backbone.modules() if isinstance(each, torch.nn.Dropout)]
        dropouts[0].register_forward_pre_hook(note)
        whole = Decoupling(backbone="vgg11")
        local_losses(backbone, whole, splits, TRAIN, 5, torch.device("cpu"))
        assert len(seen) == 5

    def test_divergence(self, splits: Splits) -> None:
        probe = Decoupling(backbone="vgg11", cuts=[3], aux=["conv1"])
        settings = TRAIN.model_copy(update={"lr": 1e30})
        with pytest.raises(DivergedError, match=r"cut after layer 3 \(conv1\), the loss is"):
            local_losses(vgg(), probe, splits, settings, 7, torch.device("cpu"))


class TestTrial:
    SETTINGS = ProbeSettings(cost=8, seed=3)

    def run(self, directory: Path | None = None, **changes: Any) -> dict[str, Any]:
        return run_search(
            "probe", TASK, self.SETTINGS, aux=AUX, train=TRAIN, directory=directory, **changes
        )

    @pytest.mark.slow(reason="probings")
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
        told = seen[10:]
        assert [numbers["probe"] for numbers in told] == list(range(1, 15 + 1))
        assert {numbers["probes"] for numbers in told} == {15}
        assert (told[0]["tried"], told[14]["tried"]) == ("no cut", "cut after layer 6 (conv2)")
        assert losses(result) == [numbers["loss"] for numbers in told]
        assert result["default"] == -min(losses(result)) == -told[14]["least_loss"]
        assert result["trainings"] <= 8
        assert result["images"] == 32 * 15 * result["steps"]
        assert not (tmp_path / "progress.json").exists()
        assert self.run(tmp_path) == result == read_json(tmp_path / "results.json")

    @pytest.mark.slow(reason="probings")
    def test_a_batch_of_more_images_than_there_are_counts_as_what_it_is(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With 200 to learn from, batches of 200 are what those of 1024 come to."""
        drawn: list[int] = []

        class Counting(BatchStream):
            def iterate(self, start: int = 0) -> Iterator[Batch]:
                for images, labels in super().iterate(start):
                    drawn.append(len(images))
                    yield images, labels

        monkeypatch.setattr(loop, "BatchStream", Counting)

        def probed(batch_size: int) -> dict[str, Any]:
            train = TRAIN.model_copy(update={"epochs": 6, "batch_size": batch_size})
            return run_search("probe", TASK, ProbeSettings(cost=13), aux=AUX, train=train)

        result, same = probed(1024), probed(200)
        assert result["images"] == sum(drawn) / 2
        assert set(drawn) == {200}
        for name in ("search_result", "steps", "trainings", "images"):
            assert result[name] == same[name]

    def test_another_probing_needs_another_directory(self, tmp_path: Path) -> None:
        (tmp_path / "run.json").write_text("{}")
        with pytest.raises(InputError, match=r"run\.json"):
            self.run(tmp_path)

    @pytest.mark.slow(reason="probings")
    def test_damaged_progress_is_one_line(self, tmp_path: Path) -> None:
        def interrupt(numbers: dict[str, float]) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            self.run(tmp_path, report=interrupt)
        path = tmp_path / "progress.json"
        for content in ("", "{", "[1]", "{}", '{"losses": ["x"], "time_s": 1}'):
            path.write_text(content)
            with pytest.raises(InputError, match=r"progress\.json: .*; remove it to start again$"):
                self.run(tmp_path)
            assert path.read_text() == content


def losses(result: dict[str, Any]) -> list[float]:
    content = result["search_result"]
    return [content["undivided"], *itertools.chain(*content["losses"])]
