"""NNI's own strategies without its manager: what they ask for is answered in this process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from sedona_nni.decouplings.bounds import BlockBound
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.strategies.settings.parts import Exploration
from sedona_nni.strategies.trial_engine import TrialEngine, build_strategy, decoupling_space
from sedona_nni.task import Task

__all__ = ["ask_by_nni"]


def ask_by_nni(
    exploration: Exploration,
    task: Task,
    aux: Sequence[str],
    *,
    bound: BlockBound | None,
    seed: int,
    ask: Callable[[Decoupling], float],
) -> None:
    """Let one of NNI's strategies ask, on the engine that it has in experiments.

    Args:
        exploration: The strategy, K, and how many decouplings it may ask for.
        task: Whose backbone is cut.
        aux: The auxiliary networks to choose from.
        bound: What the decouplings respect.
        seed: Of the strategy.
        ask: Answers with a validation accuracy. It is asked once for each decoupling.

    Raises:
        InputError: if the strategy does not accept its arguments.
    """
    logging.getLogger("nni").setLevel(logging.ERROR)  # else it tells of every question

    def answer(decoupling: Decoupling) -> None:
        engine.finish(decoupling, ask(decoupling))

    space = decoupling_space(exploration, task, aux, bound)
    engine = TrialEngine(answer, lambda: True, threading.RLock(), exploration, space)
    engine.explore(build_strategy(exploration, seed))
