"""What strategies ask a table for: no training.

A strategy asks for the validation accuracy of one decoupling after another; each answer is one
training of the table, with a seed drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.tabular.table import Table, Training
from sedona_nni.decouplings.decoupling import Decoupling, uniform_cuts

__all__ = ["RANDOM_START", "STRATEGIES", "queries"]

_START = 6  # in a space of tens of decouplings, evolution and TPE have to begin early
_BY_NNI: dict[str, dict[str, Any]] = {
    "random": {},
    "regularized_evolution": {"population_size": _START, "sample_size": 3, "mutation_prob": 0.3},
}
RANDOM_START = {"regularized_evolution": _START, "tpe": _START}
"""How often strategies that learn from answers ask at random before."""

_TPE_ASKS_PER_QUERY = 20  # it may ask for the same again
STRATEGIES = (*_BY_NNI, "tpe", "uniform")


def queries(
    table: Table,
    strategy: str,
    num_blocks: int,
    num_queries: int,
    max_block_share: str | None,
    rng: np.random.Generator,
) -> list[tuple[Decoupling, Training]]:
    """Let a strategy ask, and return what it asked for and was given, in this order."""
    asked: list[tuple[Decoupling, Training]] = []

    def ask(decoupling: Decoupling) -> float:
        asked.append((decoupling, table.draw(decoupling, rng)))
        return asked[-1][1].validation_accuracy

    if strategy == "uniform":
        for decoupling in _uniform(table, num_blocks, max_block_share, rng)[:num_queries]:
            ask(decoupling)
    elif strategy == "tpe":
        _ask_by_tpe(table, num_blocks, num_queries, max_block_share, rng, ask)
    else:
        _ask_by_nni(table, strategy, num_blocks, num_queries, max_block_share, rng, ask)
    return asked


def _uniform(
    table: Table, num_blocks: int, max_block_share: str | None, rng: np.random.Generator
) -> list[Decoupling]:
    """Return uniform cuts with the same auxiliary network at each, in a random order; with a bound
    what is nearest to them, as in experiments."""
    backbone, bound = table.task.backbone, table.bound(max_block_share)
    cuts = uniform_cuts(table.num_boundaries + 1, num_blocks)
    found = []
    for name in rng.permutation(table.aux_choices).tolist():
        if bound is None:
            found.append(Decoupling(backbone=backbone, cuts=cuts, aux=[name] * len(cuts)))
        else:
            found.append(bound.nearest(cuts, [[name, *table.aux_choices]] * table.num_boundaries))
    return list(dict.fromkeys(found))


def _ask_by_nni(
    table: Table,
    strategy: str,
    num_blocks: int,
    num_queries: int,
    max_block_share: str | None,
    rng: np.random.Generator,
    ask: Callable[[Decoupling], float],
) -> None:
    """Let one of NNI's strategies ask."""
    from sedona_nni.strategies.asking import ask_by_nni
    from sedona_nni.strategies.settings.parts import Exploration

    exploration = Exploration(
        strategy=strategy,  # type: ignore[arg-type]  # checked by pydantic
        strategy_args=_BY_NNI[strategy],
        num_blocks=num_blocks,
        max_trials=num_queries,
    )
    ask_by_nni(
        exploration,
        table.task,
        table.aux_choices,
        bound=table.bound(max_block_share),
        seed=int(rng.integers(2**31)),
        ask=ask,
    )


def _ask_by_tpe(
    table: Table,
    num_blocks: int,
    num_queries: int,
    max_block_share: str | None,
    rng: np.random.Generator,
    ask: Callable[[Decoupling], float],
) -> None:
    """Let Optuna's TPE ask; NNI's takes seconds for what this does in milliseconds."""
    import optuna

    from sedona_nni.search_spaces import DecouplingSpace

    space = DecouplingSpace(
        table.task.backbone,
        table.aux_choices,
        num_classes=2,
        num_blocks=num_blocks,
        bound=table.bound(max_block_share),
    )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(n_startup_trials=_START, seed=int(rng.integers(2**31)))
    study = optuna.create_study(sampler=sampler, direction="maximize")
    known: dict[Decoupling, float] = {}
    for _ in range(_TPE_ASKS_PER_QUERY * num_queries):
        if len(known) == num_queries:
            break
        trial = study.ask()
        cuts = {
            f"cut/{k}": trial.suggest_categorical(f"cut/{k}", range(table.num_boundaries - k))
            for k in range(num_blocks - 1)
        }
        aux = {f"aux/{i}": table.aux_choices[0] for i in range(table.num_boundaries)}
        for cut in space.decoupling({**cuts, **aux}).cuts:  # where it matters
            aux[f"aux/{cut}"] = trial.suggest_categorical(f"aux/{cut}", table.aux_choices)
        decoupling = space.decoupling({**cuts, **aux})
        if decoupling not in known:
            known[decoupling] = ask(decoupling)
        study.tell(trial, known[decoupling])
