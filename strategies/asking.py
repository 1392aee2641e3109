"""NNI's own strategies without its manager: what they ask for is answered in this process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from sedona_nni.decouplings.bounds import BlockBound
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.strategies.settings import BridgeSettings
from sedona_nni.strategies.trial_engine import TrialEngine, build_strategy

__all__ = ["ask_by_nni"]


def ask_by_nni(
    settings: BridgeSettings, bound: BlockBound | None, ask: Callable[[Decoupling], float]
) -> None:
    """Let one of NNI's strategies ask, on the engine that it has in experiments.

    Args:
        settings: The strategy, its space, its seed, and how many decouplings it may ask for.
        bound: What the decouplings respect.
        ask: Answers with a validation accuracy. It is asked once for each decoupling.

    Raises:
        InputError: if the strategy does not accept its arguments.
    """
    logging.getLogger("nni").setLevel(logging.ERROR)  # else it tells of every question

    def answer(decoupling: Decoupling) -> None:
        engine.finish(decoupling, ask(decoupling))

    engine = TrialEngine(answer, lambda: True, threading.RLock(), settings, bound)
    engine.explore(build_strategy(settings))
