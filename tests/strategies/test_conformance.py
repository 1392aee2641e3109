"""The conformance suite for SEDONA and for NNI's own strategies on our space, in this process."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nni
import pytest
import torch
from conformance import Exploration, StrategyConformance, space
from torch.utils.data import Subset, TensorDataset

from sedona_nni.decouplings.decoupled import DecoupledNetwork
from sedona_nni.search_spaces import DistinctDecouplings
from sedona_nni.strategies import Sedona

# After search_spaces, which imports nni.nas without its warnings.
from nni.nas.evaluator import FunctionalEvaluator  # isort: skip
from nni.nas.evaluator.pytorch import Classification, DataLoader  # isort: skip
from nni.nas.execution import SequentialExecutionEngine  # isort: skip
from nni.nas.execution.event import ModelEventType, TrainingEndEvent  # isort: skip
from nni.nas.space import RawFormatModelSpace  # isort: skip
from nni.nas.strategy import Random, RegularizedEvolution  # isort: skip


@pytest.fixture(scope="module", autouse=True)
def one_quiet_thread() -> Iterator[None]:
    """Compute with one thread: these networks are too small to share, and others may compute."""
    logging.getLogger("nni").setLevel(logging.ERROR)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def judge(network: DecoupledNetwork) -> None:
    """Report something that is quick to compute and depends on the cuts."""
    nni.report_final_result(float(sum(i * len(b.layers) for i, b in enumerate(network.blocks))))


class MultiTrialConformance(StrategyConformance):
    """NNI's strategies: the budget is in models, the state in a dict."""

    budget = 24
    stops = (1, 5, 13)

    def strategy(self, seed: int) -> Any:
        raise NotImplementedError

    def explore(
        self,
        num_blocks: int | None,
        *,
        seed: int,
        budget: int,
        directory: Path,
        stop_after: int | None = None,
    ) -> Exploration:
        one = space(num_blocks)
        samples: list[dict[str, Any]] = []
        states: list[dict[str, Any]] = []

        def run(first: int, last: int) -> None:
            strategy = self.strategy(seed)
            engine = SequentialExecutionEngine(max_model_count=last)
            models = DistinctDecouplings.from_model(one, FunctionalEvaluator(judge))
            strategy.initialize(models, engine)
            if first:
                engine.load_state_dict({"model_count": first, "total_duration": 0.0})
                strategy.load_state_dict(states[first - 1])
                for sample in samples:
                    models.freeze(sample)  # what was tried before is not proposed again

            def ended(event: TrainingEndEvent) -> None:
                samples.append(event.model.sample)
                states.append(strategy.state_dict())

            engine.register_model_event_callback(ModelEventType.TrainingEnd, ended)
            strategy.run()

        if stop_after is not None:
            run(0, stop_after)
        run(stop_after or 0, budget)
        return Exploration(len(samples), [one.decoupling(sample) for sample in samples])


class TestRandom(MultiTrialConformance):
    def strategy(self, seed: int) -> Any:
        return Random(seed=seed)


class TestRegularizedEvolution(MultiTrialConformance):
    def strategy(self, seed: int) -> Any:
        return RegularizedEvolution(population_size=6, sample_size=3, mutation_prob=0.2, seed=seed)


class Stop(Exception):
    """Interrupts a search."""


@pytest.mark.slow(reason="a dozen searches")
class TestSedona(StrategyConformance):
    """The budget is in steps, the state in a directory."""

    budget = 8
    stops = (1, 4, 7)

    def explore(
        self,
        num_blocks: int | None,
        *,
        seed: int,
        budget: int,
        directory: Path,
        stop_after: int | None = None,
    ) -> Exploration:
        one = space(num_blocks)
        steps: list[int] = []

        def progress(numbers: dict[str, float]) -> None:
            steps.append(int(numbers["step"]))
            if steps[-1] == last:
                raise Stop

        def run() -> Sedona:
            strategy = Sedona(
                pretrain_steps=budget // 2,
                meta_steps=budget - budget // 2,
                inner_steps=2,
                memory_size=2,
                meta_lr=0.1,
                seed=seed,
                directory=directory,
                checkpoint_every=3,
                on_progress=progress,
            )
            models = RawFormatModelSpace.from_model(space(num_blocks), evaluator())
            strategy(models, SequentialExecutionEngine())
            return strategy

        last = stop_after
        if stop_after is not None:
            with pytest.raises(Stop):
                run()
            last = None
        strategy = run()
        (model,) = strategy.list_models()
        result = strategy.search_result
        return Exploration(
            len(set(steps)), [one.decoupling(model.sample)], (result.alpha, result.beta)
        )


def evaluator() -> Classification:
    torch.manual_seed(0)
    images = TensorDataset(torch.randn(24, 3, 32, 32), torch.arange(24) % 10)
    return Classification(
        num_classes=10,
        train_dataloaders=DataLoader(Subset(images, range(12)), batch_size=6),
        val_dataloaders=DataLoader(Subset(images, range(12, 24)), batch_size=6),
        accelerator="cpu",
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
