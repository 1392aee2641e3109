"""The conformance suite for SEDONA and for NNI's own strategies on our space, in this process."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import nni
import pytest
from conformance import Exploration, StrategyConformance, space

from search_spaces import DistinctDecouplings
from sedona_nni.decoupled import DecoupledNetwork

# After search_spaces, which imports nni.nas without its warnings.
from nni.nas.evaluator import FunctionalEvaluator  # isort: skip
from nni.nas.execution import SequentialExecutionEngine  # isort: skip
from nni.nas.execution.event import ModelEventType, TrainingEndEvent  # isort: skip
from nni.nas.strategy import Random, RegularizedEvolution  # isort: skip


@pytest.fixture(autouse=True)
def quiet_nni() -> None:
    logging.getLogger("nni").setLevel(logging.ERROR)


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
