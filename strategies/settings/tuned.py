"""Settings of tuners that train what a search found, or what is given, and what that is compared
with; and the plan that follows from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from sedona_nni.decouplings.bounds import BlockBound
from sedona_nni.decouplings.decoupling import Decoupling, check_num_blocks
from sedona_nni.decouplings.outcome import SearchOutcome
from sedona_nni.decouplings.rules import decoupling_by_rule, is_rule
from sedona_nni.errors import InputError
from sedona_nni.machine import Machine
from sedona_nni.searches import SEARCHES
from sedona_nni.searches.documents import document_path, load_document
from sedona_nni.strategies.plan import BACKPROP, FIXED, RANDOM, Contender, Plan, Source, derived
from sedona_nni.strategies.published import SETTINGS, TRAINS_OTHERWISE, with_published
from sedona_nni.strategies.settings.costs import MEASURED, block_bound, known_costs, rule_costs
from sedona_nni.strategies.settings.parts import (
    Bound,
    Comparison,
    Given,
    Plugins,
    Searched,
    Training,
    Tuning,
)
from sedona_nni.strategies.settings.reading import (
    Parts,
    check_seeds,
    check_training,
    load_named_plugins,
    read_parts,
)
from sedona_nni.teachers import NO_AUXILIARY
from sedona_nni.teachers.auxiliary import check_auxiliary, check_plain
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.task_backbone import check_pretrained_rate, task_layers

__all__ = [
    "Searches",
    "TunedSettings",
    "aux_names",
    "aux_of",
    "check_bound",
    "contenders",
    "fixed_for",
    "plan_of",
    "read_given",
    "read_searching",
    "train_settings",
]

_PARTS = (Training, Machine, Plugins, Bound, Tuning, Comparison)


@dataclass(frozen=True)
class Searches:
    """The searches of an experiment.

    Attributes:
        main: The one that others are compared with.
        num_blocks: Every K to train; 0 leaves it to the search.
        settings: Of each search, by its name, the main one first.
    """

    main: str
    num_blocks: tuple[int, ...]
    settings: Mapping[str, BaseModel]


@dataclass(frozen=True)
class TunedSettings:
    """Settings of `sedona_nni.strategies.tuner`'s tuners.

    Attributes:
        training: What is trained, and how.
        machine: What each trial may use.
        plugins: What is loaded first.
        bound: How large blocks may be.
        tuning: How hyperparameters are tuned.
        comparison: What is trained beside.
        source: What the decouplings of the main strategy come from.
    """

    training: Training
    machine: Machine
    plugins: Plugins
    bound: Bound
    tuning: Tuning
    comparison: Comparison
    source: Searches | Given

    @property
    def main(self) -> str:
        """The strategy that the others are compared with."""
        return self.source.main if isinstance(self.source, Searches) else self.source.name

    @property
    def searches(self) -> tuple[str, ...]:
        """Every strategy that searches, the main one first."""
        return tuple(self.source.settings) if isinstance(self.source, Searches) else ()

    @property
    def block_counts(self) -> Sequence[int]:
        """Every K to train; 0 leaves it to the search, or to a decoupling in a file."""
        if isinstance(self.source, Given) and isinstance(self.source.decoupling, Decoupling):
            return [self.source.decoupling.num_blocks]
        return self.source.num_blocks or [0]

    @property
    def uses_costs(self) -> bool:
        """Whether anything depends on what blocks cost."""
        second = self.tuning.second_objective
        return self.bound.bounds_blocks or second == "speed-up"

    @property
    def trainings(self) -> dict[str, int]:
        """How many trials train what each contender chooses, by the names in the table."""
        return {each.name: self.tuning.trials_per_strategy for each in contenders(self)}

    @property
    def num_trials(self) -> int:
        """How many trials the experiment has, searches included."""
        return len(self.searches) + sum(self.trainings.values())


def read_searching(
    class_args: Mapping[str, Any], folder: Path, search: str | None = None
) -> TunedSettings:
    """Read and check the settings of a tuner that searches.

    Args:
        class_args: What the YAML file has.
        folder: What relative paths are relative to: ``trialCodeDirectory``.
        search: Name of the main search; by default the settings say it, as ``strategy``.

    Raises:
        InputError: if a field is misspelt or missing, or its value breaks a rule.
    """
    load_named_plugins(class_args, folder)
    if search is None:
        search, class_args = _main_search(class_args)
    under = {SEARCHES[name].field: SEARCHES[name].settings for name in SEARCHES}
    parts = read_parts(_published(class_args), (*_PARTS, Searched), under)
    compare = parts[Comparison].compare
    names = (search, *(name for name in compare if name in SEARCHES))
    searches = {name: parts.under[SEARCHES[name].field] for name in names}
    if search in compare:
        rule = f"must not name {search}, which is what others are compared with"
        raise InputError.rule("compare", rule, list(compare))
    for name in SEARCHES:
        field = SEARCHES[name].field
        if name not in searches and field in parts.given:
            raise InputError(f"{field}: must come with {name} in compare")
    settings = _composed(parts, Searches(search, parts[Searched].num_blocks, searches))
    check_seeds({SEARCHES[name].field: how.model_dump() for name, how in searches.items()})
    _check(settings, folder)
    return settings


def _main_search(class_args: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name of the search that the settings want, and all else in them."""
    rest = {name: value for name, value in class_args.items() if name != "strategy"}
    name = class_args.get("strategy")
    if not isinstance(name, str) or name not in SEARCHES:
        raise InputError.rule("tuner.classArgs.strategy", SEARCHES.rule, name)
    return name, rest


def read_given(class_args: Mapping[str, Any], folder: Path) -> TunedSettings:
    """Read and check the settings of a tuner that trains what is given.

    Args:
        class_args: What the YAML file has.
        folder: See `read_searching`.

    Raises:
        InputError: if a field is misspelt or missing, or its value breaks a rule.
    """
    load_named_plugins(class_args, folder)
    parts = read_parts(_published(class_args), (*_PARTS, Given))
    settings = _composed(parts, parts[Given])
    _check(settings, folder)
    return settings


def _composed(parts: Parts, source: Searches | Given) -> TunedSettings:
    return TunedSettings(
        training=parts[Training],
        machine=parts[Machine],
        plugins=parts[Plugins],
        bound=parts[Bound],
        tuning=parts[Tuning],
        comparison=parts[Comparison],
        source=source,
    )


def _published(class_args: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings with those of a published table in place of what they leave open."""
    dataset = class_args.get("published")
    if isinstance(dataset, str) and dataset in SETTINGS:
        return with_published(dataset, class_args)
    return class_args


def contenders(settings: TunedSettings) -> list[Contender]:
    """Return what is trained: every strategy with every K; back-propagation knows one K."""
    comparison, counts = settings.comparison, settings.block_counts
    found: list[Contender] = []
    for strategy in (settings.main, *comparison.compare):
        if strategy == BACKPROP:
            found.append(Contender(strategy, strategy, 1))
            continue
        for count in counts:
            name = f"{strategy}-k{count}" if len(counts) > 1 else strategy
            found.append(Contender(name, strategy, count))
            if strategy == settings.main:
                found += [
                    Contender(f"{name}-{place + 1}", strategy, count, place)
                    for place in range(1, comparison.leaders)
                ]
    return [*found, *(Contender(name, name, 0) for name in comparison.also)]


def fixed_for(settings: TunedSettings, strategy: str) -> dict[str, Any]:
    """Return what a strategy has otherwise than ``train``, and what is not tuned for it."""
    return {**TRAINS_OTHERWISE.get(strategy, {}), **settings.tuning.train_for.get(strategy, {})}


def train_settings(settings: TunedSettings, strategy: str) -> TrainSettings:
    """Return how a strategy trains.

    Raises:
        InputError: if ``train_for`` has an unknown setting or breaks a rule.
    """
    changed = {**settings.training.train.model_dump(), **fixed_for(settings, strategy)}
    try:
        return TrainSettings.model_validate(changed)
    except ValidationError as error:
        raise InputError.from_validation(error, f"train_for.{strategy}") from None


def plan_of(settings: TunedSettings, folder: Path) -> Plan:
    """Return what is to be searched and trained, still without a bound.

    Args:
        settings: Of the experiment.
        folder: See `read_searching`.

    Raises:
        InputError: if a file cannot be read or a rule does not fit the backbone.
    """
    task, comparison = settings.training.task, settings.comparison
    given: dict[str, Source] = {}
    if isinstance(settings.source, Given):
        given[settings.main] = _document(settings.source.decoupling, settings.training, folder)
    for name, text in comparison.also.items():
        document = _document(text, settings.training, folder)
        if isinstance(document, SearchOutcome):
            raise InputError.rule(f"also.{name}", "must be a decoupling", text)
        given[name] = document
    return Plan(
        backbone=task.backbone,
        num_layers=task_layers(task),
        main=settings.main,
        searches=settings.searches,
        contenders=tuple(contenders(settings)),
        trials_per_strategy=settings.tuning.trials_per_strategy,
        given=given,
        choices={
            "uniform": (comparison.uniform_aux,),
            "predsim": ("predsim",),
            RANDOM: settings.training.aux,
        },
        seed=settings.training.seed,
    )


def _document(given: Decoupling | str, training: Training, folder: Path) -> Source:
    """Return what a setting names: itself, what a rule makes, or what a file holds."""
    if isinstance(given, Decoupling):
        return given
    if is_rule(given):
        name = training.task.backbone
        return decoupling_by_rule(
            given, name, task_layers(training.task), rule_costs(training, folder)
        )
    return load_document(document_path(given, folder))


def aux_names(settings: TunedSettings, plan: Plan) -> set[str]:
    """Return the auxiliary networks that decouplings may use."""
    found = set(settings.training.aux)
    found.update(*(plan.choices.get(strategy, ()) for strategy in settings.comparison.compare))
    for source in plan.given.values():
        found.update(source.aux if isinstance(source, Decoupling) else source.aux_choices)
    return found


def aux_of(settings: TunedSettings, plan: Plan, contender: Contender) -> Sequence[str]:
    """Return the auxiliary networks at the cuts of a contender, as far as they are known.

    Of those that it chooses from the first, and of K = 0 two blocks.
    """
    _, strategy, count, place = contender
    if strategy in plan.given:
        return derived(plan.given[strategy], count, place=place).aux
    names = plan.choices.get(strategy, settings.training.aux)
    return names[:1] * (count - 1 if count else 1)


# Checks


def _check(settings: TunedSettings, folder: Path) -> None:
    """Check what goes beyond the form of single fields.

    Raises:
        InputError: if a name is unknown or numbers do not fit the backbone.
    """
    check_training(settings.training, folder)
    check_seeds({"train_for": settings.tuning.train_for})
    _check_names(settings)
    plan = plan_of(settings, folder)
    _check_given(settings, plan)
    for strategy in settings.tuning.train_for:
        known = (*_with_sources(settings), *settings.comparison.also)
        if strategy not in known:
            raise InputError.rule("train_for", f"must name {', '.join(known)}", strategy)
        check_pretrained_rate(settings.training.task, train_settings(settings, strategy))
    for contender in plan.contenders:
        train_settings(settings, contender.strategy).check_aux(aux_of(settings, plan, contender))
    if isinstance(settings.source, Searches):
        _check_counts(settings, settings.source, plan)
    limits, faster = settings.bound, settings.tuning.second_objective == "speed-up"
    if limits.compute != "macs" and limits.max_block_share is None and not faster:
        raise InputError.rule("compute", "must come with a max_block_share", limits.compute)
    if limits.compute == "memory" and faster:
        rule = "must not be speed-up where compute is memory"
        raise InputError.rule("second_objective", rule, "speed-up")
    if settings.uses_costs and limits.compute != MEASURED:
        names = aux_names(settings, plan)
        costs = known_costs(limits, settings.training, names, folder)
        bound = block_bound(limits, costs, settings.training, names, folder)
        if bound is not None:
            check_bound(settings, plan, bound)


def _with_sources(settings: TunedSettings) -> tuple[str, ...]:
    """Return the names that strategies have, but for those of ``also``."""
    return (*(settings.searches or (settings.main,)), *FIXED)


def _check_names(settings: TunedSettings) -> None:
    comparison, counts = settings.comparison, settings.block_counts
    known = FIXED if isinstance(settings.source, Given) else (*SEARCHES, *FIXED)
    for number, name in enumerate(comparison.compare):
        if name not in known:
            where = f"tuner.classArgs.compare.{number}"
            raise InputError.rule(where, f"must be one of {', '.join(known)}", name)
    if settings.searches or any(name in SEARCHES for name in comparison.compare):
        check_plain(settings.training.aux, "in a search")
    if comparison.uniform_aux != NO_AUXILIARY:
        check_auxiliary(comparison.uniform_aux)
    if len(set(comparison.compare)) < len(comparison.compare):
        rule = "must name each strategy once"
        raise InputError.rule("compare", rule, list(comparison.compare))
    if len(set(counts)) < len(counts):
        raise InputError.rule("num_blocks", "must have each number once", list(counts))
    for count in counts:
        if count > 0:
            check_num_blocks(count, task_layers(settings.training.task))
    names = {each.name for each in contenders(settings) if each.strategy not in comparison.also}
    for name in comparison.also:
        if name in names.union(_with_sources(settings)):
            raise InputError.rule("also", "must not have the name of another strategy", name)
    if isinstance(settings.source, Given) and settings.source.name in FIXED:
        rule = "must not be that of another strategy"
        raise InputError.rule("name", rule, settings.source.name)


def _check_given(settings: TunedSettings, plan: Plan) -> None:
    """Check what was given in place of a search, and beside it."""
    if isinstance(settings.source, Given):
        source, given = plan.given[settings.main], settings.source
        leaders = settings.comparison.leaders
        if isinstance(source, SearchOutcome) and not given.num_blocks:
            raise InputError(f"num_blocks: must be given, as {given.decoupling} is a search result")
        if isinstance(source, Decoupling) and given.num_blocks:
            raise InputError("num_blocks: must not be given, as there is a decoupling")
        if isinstance(source, Decoupling) and leaders > 1:
            raise InputError.rule("leaders", "must be 1, as there is a decoupling", leaders)
        for count in settings.block_counts:
            _check_decoupling(settings, derived(source, count, place=leaders - 1), settings.main)
    for name in settings.comparison.also:
        _check_decoupling(settings, derived(plan.given[name], 0), name)


def _check_decoupling(settings: TunedSettings, decoupling: Decoupling, strategy: str) -> None:
    """Check that a decoupling fits the backbone, and how the strategy trains."""
    backbone = settings.training.task.backbone
    if decoupling.backbone != backbone:
        rule = f"must be one of the task's backbone, {backbone}"
        raise InputError.rule("decoupling", rule, decoupling.backbone)
    decoupling.blocks(task_layers(settings.training.task))
    for name in set(decoupling.aux) - {NO_AUXILIARY}:
        check_auxiliary(name)
    train_settings(settings, strategy).check_aux(decoupling.aux)


def _check_counts(settings: TunedSettings, searches: Searches, plan: Plan) -> None:
    """Check that there are as many decouplings as wanted, and whether a search tells K."""
    silent = [name for name in plan.searches if not SEARCHES[name].outcome.tells_num_blocks]
    if 0 in searches.num_blocks and silent:
        rule = f"must be at least 1 for {silent[0]}, which tells where to cut but not how often"
        raise InputError.rule("num_blocks", rule, list(searches.num_blocks))
    for count in searches.num_blocks:
        most = math.comb(plan.num_layers - 1, count - 1) if count else 1
        which = f"into {count} blocks" if count else "where the search decides their number"
        _check_leaders(settings, most, which)


def _check_leaders(settings: TunedSettings, most: int, which: str) -> None:
    leaders = settings.comparison.leaders
    if leaders > most:
        raise InputError.rule(
            "leaders", f"must be at most {most}, the decouplings {which}", leaders
        )


def check_bound(settings: TunedSettings, plan: Plan, bound: BlockBound) -> None:
    """Check that every decoupling can respect a bound, whatever a search finds.

    Raises:
        InputError: if one cannot.
    """
    for name in settings.comparison.also:
        bound.require(derived(plan.given[name], 0), f"also.{name}")
    chosen = set(settings.comparison.compare) & set(plan.choices)
    for _, strategy, count, _ in plan.contenders:
        if strategy in chosen and count > 0:
            names = plan.choices[strategy]
            ends = bound.ends([names] * (bound.num_layers - 1))
            bound.check(count, ends, f" with {' or '.join(names)}")
    if isinstance(settings.source, Given):
        source = plan.given[settings.main]
        for count in settings.block_counts:
            last = settings.comparison.leaders - 1
            bound.require(derived(source, count, bound, last), "decoupling")
        return
    # Nothing that a search finds may fail later
    aux = settings.training.aux
    one = any(SEARCHES[name].outcome.one_aux_each for name in plan.searches)  # and be it too large
    ends = bound.ends([aux] * (bound.num_layers - 1), costliest=one)
    which = f" whichever of {', '.join(aux)} the search prefers" if one else ""
    for count in settings.block_counts:
        bound.check(count, ends, which)
        if count:
            most = bound.count(count, ends, settings.comparison.leaders)
            within = f"into {count} blocks within the bound{',' * one}{which}"
            _check_leaders(settings, most, within)
