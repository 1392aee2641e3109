"""What every search has to do, as tests.

Inherit the class where pytest finds it, say which search and how to run a short one, and pytest
runs the suite::

    class TestMySearch(SearchConformance):
        name = "mine"
        settings = MySettings(steps=4)

It searches a small network on scikit-learn's digits: 4 layers, two auxiliary networks, 120 images,
of which those that train, validate and test are different ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import BaseModel, ValidationError

from sedona_nni.data.sets import Splits, load_splits
from sedona_nni.decouplings.bounds import BlockBound
from sedona_nni.decouplings.choice import discretise, evidence, leaders
from sedona_nni.decouplings.compute import compute_in_macs
from sedona_nni.decouplings.outcome import SearchOutcome
from sedona_nni.errors import InputError
from sedona_nni.searches.documents import load_outcome, parse_result
from sedona_nni.searches.kind import SEARCHES, Findings, SearchKind, SearchSetup
from sedona_nni.searches.progress import SearchProgress
from sedona_nni.task import Task
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.task_backbone import task_backbone

__all__ = ["SearchConformance"]

_TASK = Task(backbone="dgl-cnn4", width_multiplier=0.1, image_size=8, train_limit=120)
_LAYERS = 4
_AUX = ("conv1", "mlp-sr")
_OF_OTHERS = 0.2  # share of the images that validates, where a search does not say it


class _Interrupted(Exception):
    """Stops a search from within its report."""


@dataclass
class _Run:
    """A search and all that it reported."""

    findings: Findings
    reports: list[dict[str, Any]] = field(default_factory=list)

    @property
    def outcome(self) -> SearchOutcome:
        return self.findings.outcome

    @property
    def document(self) -> str:
        return self.outcome.model_dump_json()


class SearchConformance:
    """The suite for searches.

    Attributes:
        name: Of the search, which is registered.
        settings: How to run a short one, with at least two reports.
        train: Of the trainings that a decoupling is wanted for.
        depends_on: Which parts of the images the outcome depends on. Never on ``test``.
        is_random: Whether the outcome depends on the seed.
    """

    name: str
    settings: BaseModel
    train: TrainSettings = TrainSettings(epochs=2, batch_size=16, validation_fraction=_OF_OTHERS)
    depends_on: ClassVar[tuple[str, ...]] = ("train", "validation")
    is_random: bool = True

    @property
    def kind(self) -> SearchKind[Any]:
        """The search."""
        return SEARCHES[self.name]

    def splits(self, task: Task = _TASK) -> Splits:
        """Return the images."""
        train = self.train if self.kind.uses_training else None
        return load_splits(task, self.kind.validation_fraction(self.settings, train))

    def search(
        self,
        *,
        directory: Path | None = None,
        report: Callable[[dict[str, Any]], None] = lambda numbers: None,
        splits: Splits | None = None,
        settings: BaseModel | None = None,
    ) -> _Run:
        """Run the search, or go on with the one in a directory."""
        settings = settings or self.settings
        reports: list[dict[str, Any]] = []

        def note(numbers: dict[str, Any]) -> None:
            reports.append(numbers)
            report(numbers)

        setup = SearchSetup(
            task=_TASK,
            splits=splits or self.splits(),
            aux=_AUX,
            train=self.train if self.kind.uses_training else None,
            report=note,
            progress=SearchProgress(None if directory is None else directory / "progress.json"),
            directory=None if directory is None else directory / "checkpoint",
        )
        self.kind.check(setup, settings)
        return _Run(self.kind.run(setup, settings), reports)

    @property
    def whole(self) -> _Run:
        """The search, run once for all tests."""
        cls = type(self)
        if "_whole" not in vars(cls):
            torch.manual_seed(1)
            cls._whole = self.search()
        return cls._whole

    _whole: ClassVar[_Run]

    # What it is

    def test_it_is_described(self) -> None:
        kind = self.kind
        assert kind.name == self.name
        assert kind.field.isidentifier()
        assert issubclass(kind.outcome, SearchOutcome)
        defaults = kind.settings()
        assert "seed" in kind.settings.model_fields, "its settings must have a seed"
        assert kind.settings.model_validate(json.loads(defaults.model_dump_json())) == defaults

    def test_a_misspelt_setting_is_refused(self) -> None:
        with pytest.raises(ValidationError):
            self.kind.settings.model_validate({"no_such_setting": 1})

    # What it finds

    def test_its_outcome_is_of_what_was_searched(self) -> None:
        found = self.whole.outcome
        assert isinstance(found, self.kind.outcome)
        assert (found.backbone, found.dataset) == (_TASK.backbone, _TASK.dataset)
        assert (found.num_layers, found.aux_choices) == (_LAYERS, list(_AUX))

    def test_its_outcome_is_a_document(self, tmp_path: Path) -> None:
        found = self.whole.outcome
        assert parse_result(json.loads(found.model_dump_json())) == found
        found.save(tmp_path / "found.json")
        assert load_outcome(tmp_path / "found.json") == found

    def test_its_evidence_is_a_number_for_each_block_and_auxiliary_network(self) -> None:
        found = self.whole.outcome
        boundaries = _LAYERS - 1
        of_blocks = found.evidence()
        assert of_blocks.shape == (boundaries, boundaries, len(_AUX))
        assert of_blocks.dtype == np.float64
        for start in range(boundaries):
            assert np.isfinite(of_blocks[start, start:]).all()

    def test_at_each_boundary_it_ranks_auxiliary_networks(self) -> None:
        found = self.whole.outcome
        for boundary in range(_LAYERS - 1):
            ranked = found.ranked_aux(boundary)
            assert 0 < len(ranked) <= len(_AUX)
            assert set(ranked) <= set(_AUX)
            assert len(set(ranked)) == len(ranked)
            assert found.preferred_aux(boundary) == ranked[0]
            assert (len(ranked) == 1) == found.one_aux_each

    def test_its_decouplings_have_as_many_blocks_as_are_wanted(self) -> None:
        found = self.whole.outcome
        for num_blocks in range(1, _LAYERS + 1):
            chosen = discretise(found, num_blocks)
            assert chosen.num_blocks == num_blocks
            assert [*chosen.aux] == [found.preferred_aux(cut) for cut in chosen.cuts]
        if found.tells_num_blocks:
            assert 1 <= discretise(found, 0).num_blocks <= _LAYERS
        else:
            with pytest.raises(InputError):
                discretise(found, 0)

    def test_its_leaders_have_less_and_less_evidence(self) -> None:
        found = self.whole.outcome
        best = leaders(found, 2, _LAYERS)
        assert best[0] == discretise(found, 2)
        assert len({tuple(each.cuts) for each in best}) == len(best) == _LAYERS - 1
        totals = [evidence(found, each) for each in best]
        assert all(one >= other for one, other in pairwise(totals))

    def test_its_decouplings_respect_a_bound(self) -> None:
        found = self.whole.outcome
        with torch.device("meta"):
            compute = compute_in_macs(task_backbone(_TASK), _AUX)
        shares = [compute.largest_share(each) for each in leaders(found, 2, _LAYERS)]
        share = f"{math.ceil(1e4 * min(shares)) / 1e4}"
        chosen = discretise(found, 2, BlockBound(compute, share))
        assert compute.largest_share(chosen) <= float(share)

    def test_its_numbers_are_fit_for_json(self) -> None:
        found = self.whole
        findings = found.findings
        assert json.loads(json.dumps(findings.numbers)) == findings.numbers
        assert math.isfinite(findings.default)
        assert type(findings.images) is int
        assert findings.images >= 0
        results = {**findings.numbers, "default": findings.default, "time_s": 1.0}
        assert self.kind.in_words({**results, "images": findings.images})
        assert findings.outcome.in_words()

    # How it goes

    def test_it_reports_how_far_it_is(self) -> None:
        reports = self.whole.reports
        assert len(reports) > 1, "settings of the suite must lead to two reports at least"
        for numbers in reports:
            assert json.loads(json.dumps(numbers)) == numbers
            parts = [name for name in numbers if f"{name}s" in numbers]
            assert all(0 <= numbers[part] <= numbers[f"{part}s"] for part in parts)

    def test_it_leaves_the_random_numbers_of_others_alone(self) -> None:
        torch.manual_seed(3)
        before = torch.get_rng_state()
        self.search()
        assert torch.equal(torch.get_rng_state(), before)

    # What its outcome depends on

    def test_the_same_search_finds_the_same(self) -> None:
        one = self.whole
        torch.manual_seed(2)
        other = self.search()
        assert one.document == other.document
        assert one.reports == other.reports
        assert one.findings.default == other.findings.default

    def test_another_seed_is_another_search(self) -> None:
        other = self.settings.model_copy(update={"seed": self.settings.model_dump()["seed"] + 1})
        changed = _evidence(self.search(settings=other))
        assert self.is_random == (changed != _evidence(self.whole))

    def test_it_depends_on_the_images_that_it_says_and_on_no_other(self) -> None:
        usual = _evidence(self.whole)
        own, others = self.splits(), self.splits(_TASK.model_copy(update={"split_seed": 5}))
        for part, splits in {
            "train": replace(own, train=others.train),
            "validation": replace(own, validation=others.validation),
            # The test part is fixed, so that others' training images stand in for other ones
            "test": replace(own, test=others.train.plain()),
        }.items():
            changed = _evidence(self.search(splits=splits))
            assert (changed != usual) == (part in self.depends_on), part

    # Interruptions

    def test_interrupted_it_goes_on_to_the_same_end(self, tmp_path: Path) -> None:
        whole = self.whole
        stops = sorted({1, len(whole.reports) // 2, len(whole.reports) - 1} - {0})
        for stop in stops:
            directory = tmp_path / str(stop)
            directory.mkdir()
            told = 0

            def interrupt(numbers: dict[str, Any], stop: int = stop) -> None:
                nonlocal told
                told += 1
                if told == stop:
                    raise _Interrupted

            with pytest.raises(_Interrupted):
                self.search(directory=directory, report=interrupt)
            torch.manual_seed(stop)
            again = self.search(directory=directory)
            assert again.document == whole.document
            assert again.findings.default == whole.findings.default
            assert again.findings.images == whole.findings.images
            assert again.reports[-1] == whole.reports[-1]


def _evidence(run: _Run) -> list[list[float]]:
    """Return the evidence that means something."""
    of_blocks = run.outcome.evidence()
    return [of_blocks[start, start:].ravel().tolist() for start in range(len(of_blocks))]
