"""Watching a search of SEDONA: how well its network does, and what became of alpha and beta.

Nothing here changes what a search finds.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from rich.console import Console
from rich.progress import TaskID

from sedona_nni.data.batches import ImageSet
from sedona_nni.decouplings.decoupled import build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.progress import progress_bar
from sedona_nni.searches.kind import SearchSetup
from sedona_nni.searches.sedona.search import Search
from sedona_nni.training.evaluation import Evaluation, evaluate
from sedona_nni.training.settings import TrainSettings

__all__ = ["Watch", "judge"]

_TABLES = {
    "history": ("step", "default", "meta_loss"),
    "relaxation": ("step", "a_loc", "aux"),
}


def judge(search: Search, images: ImageSet) -> Evaluation:
    """Try the final head of the undivided backbone, as far as it has been trained."""
    search.show_most_trained()
    backbone = search.network.backbone
    undivided = build_decoupled(backbone, Decoupling(backbone=backbone.name))
    settings = TrainSettings(label_smoothing=search.settings.label_smoothing)
    return evaluate(undivided, images, settings, search.network.alpha.device)


class Watch:
    """Takes note of every step: shows a bar in a terminal, reports now and then.

    Attributes:
        every: Steps between reports.
        kept: ``history`` and ``relaxation``, see `sedona_nni.searches.sedona.kind.Sedona`.
        bar: The bar; a context manager.
    """

    def __init__(self, search: Search, setup: SearchSetup) -> None:
        self._search = search
        self._setup = setup
        self.every = max(1, search.total_steps // setup.num_reports)
        self._keep_every = max(1, search.settings.meta_steps // setup.num_reports)
        self.kept: dict[str, dict[str, list[Any]]] = setup.progress.kept(
            lambda content: _whole(content["kept"]),
            {table: {name: [] for name in names} for table, names in _TABLES.items()},
            remedy="remove it to go on without what it kept for reports",
        )
        self._seen: dict[str, list[float]] = {}
        self.bar = progress_bar(Console(stderr=True, force_terminal=sys.stderr.isatty()))
        self._task: TaskID | None = None

    def note(self, numbers: dict[str, float]) -> None:
        """Take note of a step, of which these are the numbers."""
        search = self._search
        step, total = search.step, search.total_steps
        if self._task is None:  # an interrupted search goes on from where it was
            self._task = self.bar.add_task("search", completed=step - 1, total=total, best="")
        self.bar.update(self._task, completed=step)
        for name, number in numbers.items():
            self._seen.setdefault(name, []).append(number)
        self._keep_relaxation()
        if step % self.every and step < total:
            return
        judged = judge(search, self._setup.splits.validation)
        means = {name: sum(seen) / len(seen) for name, seen in self._seen.items()}
        self._seen.clear()
        self._setup.report(
            {
                "default": judged.accuracies[-1],
                "loss": judged.loss,
                "meta_loss": judged.loss,
                **means,
                "decided": numbers["decided"],
                "step": step,
                "steps": total,
            }
        )
        loss = means.get("meta_loss", judged.loss)
        self._keep("history", step, default=judged.accuracies[-1], meta_loss=loss)
        self._setup.progress.keep(step=step, kept=self.kept)

    def _keep_relaxation(self) -> None:
        search = self._search
        done = search.step - search.settings.pretrain_steps
        if done >= 0 and (done % self._keep_every == 0 or search.done):
            with torch.no_grad():
                a_loc = search.network.alpha.softmax(1)[:, 0]
                aux = search.network.beta.softmax(1)
            self._keep("relaxation", search.step, a_loc=a_loc.tolist(), aux=aux.tolist())

    def _keep(self, table: str, step: int, **values: Any) -> None:
        """Add a row, unless it is there: an interruption may have lost the step's checkpoint."""
        columns = self.kept[table]
        if step in columns["step"]:
            return
        for name, value in {"step": step, **values}.items():
            columns[name].append(_rounded(value))


def _whole(kept: Any) -> dict[str, dict[str, list[Any]]]:
    """Return the tables, once they are seen to be whole."""
    found = {table: {name: kept[table][name] for name in names} for table, names in _TABLES.items()}
    for table, columns in found.items():
        lengths = {len(column) if isinstance(column, list) else -1 for column in columns.values()}
        if len(lengths) > 1 or -1 in lengths:
            raise ValueError(f"{table}: must have lists of one length")
    return found


def _rounded(value: Any) -> Any:
    """Round numbers, also those in lists, to 4 decimals."""
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(value, 4)
