"""What an experiment that tunes trains: decided by what is planned and what has come of it so far.

Nothing here is of NNI or Optuna, and nothing has a state: from the same plan and the same outcomes
follows the same next step.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np

from sedona_nni.decouplings.bounds import BlockBound
from sedona_nni.decouplings.choice import discretise, leaders
from sedona_nni.decouplings.decoupling import Decoupling, random_decoupling, uniform_cuts
from sedona_nni.decouplings.outcome import SearchOutcome
from sedona_nni.errors import InputError

__all__ = [
    "BACKPROP",
    "FIXED",
    "RANDOM",
    "Contender",
    "NextSearch",
    "NextTraining",
    "Outcomes",
    "Plan",
    "Source",
    "decoupling_of",
    "derived",
    "is_complete",
    "next_step",
]

BACKPROP, RANDOM = "backprop", "random"
FIXED = ("uniform", "predsim", RANDOM, BACKPROP)
"""Strategies that need no search and no file."""

Source: TypeAlias = Decoupling | SearchOutcome
"""What a decoupling comes from: itself, or what a search found."""


class Contender(NamedTuple):
    """One row of the closing table.

    Attributes:
        name: As in the table, e.g. ``"uniform-k4"``.
        strategy: Where its decoupling comes from, e.g. ``"uniform"``.
        num_blocks: K; 0 leaves it to the search or, without one, to the decoupling.
        place: Which of the decouplings that a search found, from 0, the one of the most evidence.
    """

    name: str
    strategy: str
    num_blocks: int
    place: int = 0


@dataclass(frozen=True)
class Plan:
    """What is to be searched and trained.

    Attributes:
        backbone: What is cut.
        num_layers: L.
        main: The strategy that others are compared with.
        searches: The strategies that search, the main one first if it does.
        contenders: What is trained.
        trials_per_strategy: How often each.
        given: What was given for strategies that do not search, by their names.
        choices: The auxiliary networks that strategies choose from, or that the one of uniform
            cuts is alone in.
        bound: What every decoupling but back-propagation respects.
        seed: Of random decouplings.
    """

    backbone: str
    num_layers: int
    main: str
    searches: tuple[str, ...]
    contenders: tuple[Contender, ...]
    trials_per_strategy: int
    given: Mapping[str, Source] = field(default_factory=dict)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    bound: BlockBound | None = None
    seed: int = 2021


@dataclass(frozen=True)
class Outcomes:
    """What has come of a plan so far.

    Attributes:
        found: What searches found, by strategy.
        searching: Strategies whose searches are under way.
        handed_out: How many trainings of each contender were handed out, whatever came of them.
    """

    found: Mapping[str, SearchOutcome] = field(default_factory=dict)
    searching: Collection[str] = ()
    handed_out: Mapping[str, int] = field(default_factory=dict)


class NextSearch(NamedTuple):
    """A search is next.

    Attributes:
        strategy: Whose.
    """

    strategy: str


class NextTraining(NamedTuple):
    """A training is next.

    Attributes:
        contender: Whose.
        decoupling: Of what.
    """

    contender: Contender
    decoupling: Decoupling


def next_step(plan: Plan, outcomes: Outcomes) -> NextSearch | NextTraining | None:
    """Return what to do next.

    Searches come first, in the plan's order; then the contender that has had the fewest trainings,
    the first of several such. One whose decoupling depends on a search has to wait for it.

    Returns:
        None if there is nothing to do, be it for ever or until a search has ended.
    """
    for strategy in plan.searches:
        if strategy not in outcomes.found and strategy not in outcomes.searching:
            return NextSearch(strategy)
    ready = {
        contender: decoupling
        for contender in plan.contenders
        if (decoupling := decoupling_of(plan, contender, outcomes.found)) is not None
    }
    neediest = max(ready, key=lambda each: _left(plan, outcomes, each), default=None)
    if neediest is None or _left(plan, outcomes, neediest) <= 0:
        return None
    return NextTraining(neediest, ready[neediest])


def is_complete(plan: Plan, outcomes: Outcomes) -> bool:
    """Return whether all trainings were handed out, so that there will be no next step."""
    return all(_left(plan, outcomes, contender) <= 0 for contender in plan.contenders)


def _left(plan: Plan, outcomes: Outcomes, contender: Contender) -> int:
    return plan.trials_per_strategy - outcomes.handed_out.get(contender.name, 0)


def decoupling_of(
    plan: Plan, contender: Contender, found: Mapping[str, SearchOutcome]
) -> Decoupling | None:
    """Return what a contender trains.

    Args:
        plan: The plan.
        contender: One of its contenders.
        found: What searches found, by strategy.

    Returns:
        None while that depends on a search that is not in ``found``.

    Raises:
        InputError: if there is no such decoupling within the bound.
    """
    strategy, num_blocks = contender.strategy, contender.num_blocks
    if strategy == BACKPROP:
        return Decoupling(backbone=plan.backbone)
    sources: dict[str, Source] = {**plan.given, **found}
    if strategy in sources:
        return derived(sources[strategy], num_blocks, plan.bound, contender.place)
    if strategy in plan.searches:
        return None
    if num_blocks == 0:  # as many as the main strategy's
        if plan.main not in sources:
            return None
        num_blocks = derived(sources[plan.main], 0, plan.bound).num_blocks
    return _chosen(plan, strategy, num_blocks)


def _chosen(plan: Plan, strategy: str, num_blocks: int) -> Decoupling:
    """Return a random decoupling, or uniform cuts with the strategy's auxiliary network at each."""
    names, bound = plan.choices[strategy], plan.bound
    if strategy == RANDOM:
        if bound is not None:
            return bound.random(num_blocks, names, np.random.default_rng(plan.seed))
        return random_decoupling(plan.backbone, plan.num_layers, num_blocks, names, plan.seed)
    cuts = uniform_cuts(plan.num_layers, num_blocks)
    (aux,) = names
    if bound is not None:
        return bound.nearest(cuts, [[aux]] * (plan.num_layers - 1))
    return Decoupling(backbone=plan.backbone, cuts=cuts, aux=[aux] * len(cuts))


def derived(
    source: Source, num_blocks: int, bound: BlockBound | None = None, place: int = 0
) -> Decoupling:
    """Return the decoupling itself, or one that a search's outcome gives for K.

    Args:
        source: The one or the other.
        num_blocks: K.
        bound: What a search's has to respect.
        place: See `Contender`.

    Raises:
        InputError: as `decouplings.choice.discretise` does, or if there are not as many.
    """
    if isinstance(source, Decoupling):
        return source
    if place == 0:
        return discretise(source, num_blocks, bound)
    found = leaders(source, num_blocks, place + 1, bound)
    if place >= len(found):
        rule = f"must be at most {len(found)}, the decouplings that there are"
        raise InputError.rule("leaders", rule, place + 1)
    return found[place]
