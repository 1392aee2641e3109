"""A report as one HTML page that needs nothing else: pictures first, numbers under them.

The page forbids itself to load anything, and every text from an experiment is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources

import jinja2
from markupsafe import Markup

from sedona_nni.reporting.build import MIN_TRIALS_FOR_IMPORTANCE
from sedona_nni.reporting.data import (
    COSTS,
    Group,
    Report,
    SearchView,
    StrategySummary,
    TrialView,
)
from sedona_nni.reporting.drawing import Picture, Style, styles
from sedona_nni.reporting.network_picture import network
from sedona_nni.reporting.search_pictures import compromises, pictures_of
from sedona_nni.reporting.text import (
    count,
    experiment_in_words,
    mib,
    nats,
    percent,
    search_in_words,
    seconds,
    spread,
    task_in_words,
    times,
)
from sedona_nni.reporting.training_pictures import accuracy_over_cost, learning_curves, trade_off
from sedona_nni.reporting.tuning_pictures import (
    importance_bars,
    over_hyperparameter,
    tuning_history,
)

__all__ = ["render"]

_TEMPLATE = "page.html.jinja"


def render(report: Report, made: str) -> str:
    """Return the page.

    Args:
        report: What it shows.
        made: By what and when it was made, for the foot of the page.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        digest=_digest,
        percent=percent,
        spread=spread,
        seconds=seconds,
        count=count,
        nats=nats,
        times=times,
        mib=mib,
    )
    template = environment.from_string(
        resources.files("sedona_nni.reporting").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    )
    sections = [_Section(f"g{number}", group) for number, group in enumerate(report.groups)]
    return template.render(
        sections=sections,
        made=made,
        experiment_in_words=experiment_in_words,
        search_in_words=search_in_words,
        enough=MIN_TRIALS_FOR_IMPORTANCE,
        svg=lambda picture: Markup(picture.svg),  # matplotlib has escaped what is in it
    )


@dataclass(frozen=True)
class _Network:
    """A drawing of a network, and who found it."""

    picture: Picture | None
    trial: TrialView
    found_by: int
    of: int


class _Section:
    """What the template shows of a group; a picture is None where there is nothing to

    Attributes:
        name: Unique in the page.
        group: The data.
        looks: How each strategy looks.
    """

    def __init__(self, name: str, group: Group) -> None:
        self.name = name
        self.group = group
        self.title = task_in_words(group)
        self.looks: dict[str, Style] = styles([s.strategy for s in group.strategies])

    @property
    def knows_processes(self) -> bool:
        """Whether the peak of a training's process is known."""
        return any(trial.peak_resident_mib is not None for trial in self.group.trials)

    @property
    def best(self) -> StrategySummary | None:
        """The strategy that validates best, in the mean."""
        known = {
            summary.validation_accuracy.mean: summary
            for summary in reversed(self.group.strategies)  # of equals the first
            if summary.validation_accuracy is not None
        }
        return known[max(known)] if known else None

    def over_cost(self) -> list[Picture]:
        """Accuracy over cost."""
        found = (
            accuracy_over_cost(
                self.group.curves, cost, what, self.looks, budget, f"{self.name}-{cost}-{what}"
            )
            for cost, budget in self.group.budgets.items()
            for what in ("validation", "test")
        )
        return _there(found)

    def networks(self) -> list[_Network]:
        """The decouplings of the best trainings, each drawn once."""
        found: list[_Network] = []
        for summary in self.group.strategies:
            same: dict[str, list[TrialView]] = {}
            for trial in summary.best:
                same.setdefault(trial.decoupling.key, []).append(trial)
            for trials in same.values():
                name = f"{self.name}-network{len(found)}"
                picture = network(trials[0], self.looks[summary.strategy], name)
                found.append(_Network(picture, trials[0], len(trials), len(summary.best)))
        return found

    def learning(self) -> list[Picture]:
        """Learning curves per block."""
        span = _span(
            value
            for summary in self.group.strategies
            for trial in summary.best
            for key, values in trial.history.items()
            if key.startswith("block_")
            for value in values
        )
        return _there(
            learning_curves(
                summary, self.looks[summary.strategy], f"{self.name}-learning{number}", span
            )
            for number, summary in enumerate(self.group.strategies)
        )

    def trade_offs(self) -> list[Picture]:
        """Accuracy against memory and speed-up."""
        against = ["peak_memory_mib", "ideal_speedup"]
        against += ["measured_speedup"] if self.group.has_measured_speedups else []
        return _there(
            trade_off(
                self.group.strategies,
                self.group.trials,
                what,
                self.looks,
                f"{self.name}-{what}",
            )
            for what in against
        )

    def search(self, number: int, search: SearchView) -> list[Picture]:
        """How a search went and ended."""
        if search.result is None:
            return []
        name = f"{self.name}-search{number}"
        trained = self.trained(search)
        looks = {each.decoupling.num_blocks: self.looks[each.strategy] for each in trained}
        any_look = next(iter(styles([search.strategy]).values()))
        look = next((self.looks[each] for each in self.looks if search.serves(each)), any_look)
        decouplings = [each.decoupling for each in trained]
        pictures = pictures_of(search, decouplings, look, name)
        return _there([*pictures, compromises(search, looks, f"{name}-front")])

    def searches(self) -> list[SearchView]:
        """The searches that are drawn; of a study, which has many alike, the first of each kind."""
        if self.group.space is None:
            return self.group.searches
        return list({each.strategy: each for each in reversed(self.group.searches)}.values())[::-1]

    def trained(self, search: SearchView) -> list[TrialView]:
        """What was trained of a search, each decoupling once."""
        own = (
            trial
            for trial in self.group.trials
            if trial.experiment == search.experiment and search.serves(trial.strategy)
        )
        return list({trial.decoupling: trial for trial in own}.values())

    def tuning(self) -> list[Picture]:
        """The trainings in their order, what hyperparameters do and how much they matter."""
        studies = self.group.studies
        pictures: list[Picture | None] = []
        span = _span(value for study in studies for value in study.accuracies)
        for number, strategy in enumerate(dict.fromkeys(study.strategy for study in studies)):
            own = [study for study in studies if study.strategy == strategy]
            look = self.looks[strategy]
            pictures.append(tuning_history(own, look, f"{self.name}-tuning{number}", span))
        tuned = dict.fromkeys(key for trial in self.group.trials for key in trial.hyperparameters)
        for number, key in enumerate(tuned):
            name = f"{self.name}-over{number}"
            pictures.append(over_hyperparameter(self.group.trials, key, self.looks, name))
        pictures.append(importance_bars(studies, self.looks, f"{self.name}-importance"))
        return _there(pictures)

    def costs(self) -> list[str]:
        """The kinds of cost that are known."""
        return [cost for cost in COSTS if cost in self.group.budgets]


def _there(pictures: Iterable[Picture | None]) -> list[Picture]:
    return [picture for picture in pictures if picture is not None]


def _span(values: Iterable[float | None]) -> tuple[float, float]:
    """Return the least and the largest, 0 and 1 if there are none."""
    known = [value for value in values if value is not None]
    return (min(known), max(known)) if known else (0.0, 1.0)


def _digest(script: str) -> str:
    """Return the digest by which the page allows its own script and no other."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
