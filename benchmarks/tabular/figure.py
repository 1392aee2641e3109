"""The table as a picture."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from benchmarks.tabular.evidence import Judgement, judge
from benchmarks.tabular.score import STRATEGIES, score
from benchmarks.tabular.table import Table
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.decouplings.outcome import SearchOutcome
from sedona_nni.errors import InputError
from sedona_nni.searches.probing.result import ProbeResult
from sedona_nni.searches.sedona.result import SearchResult

__all__ = ["draw"]

_BACKPROP_COLOUR = "0.35"
# Okabe and Ito's colours, which colour-blind people can tell apart
_STRATEGY_COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9")
_SEARCHES = {"probing": (ProbeResult, "*", "#D55E00"), "SEDONA": (SearchResult, "D", "#000000")}
_BOUND_COLOUR = "tab:red"


def draw(
    table: Table,
    path: Path,
    outcomes: Sequence[SearchOutcome],
    *,
    cost: float | None = None,
    repeats: int = 100,
    max_block_share: str = "1.3/K",
) -> None:
    """Draw four panels: accuracy by boundary and auxiliary network, accuracy against ideal
    speed-up with the Pareto front, and the regret of strategies by trainings seen, without and with
    a bound. What searches pick stands beside strategies, at their cost, and is ringed above.

    Args:
        table: With all decouplings into two blocks, and back-propagation.
        path: The picture; the format is that of the name's end.
        outcomes: What searches found.
        cost: Of those whose provenance has no ``trainings``, in full trainings.
        repeats: See `score`.
        max_block_share: The bound.

    Raises:
        InputError: if what a search cost is not known.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    judged = {
        share: [(each, judge(table, each, 2, share)) for each in outcomes]
        for share in (None, max_block_share)
    }
    figure, panels = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    (by_boundary, by_speed), below = panels
    _draw_table(table, by_boundary, by_speed, max_block_share)
    for panel, (share, verdicts) in zip(below, judged.items(), strict=True):
        _draw_regrets(table, panel, share, verdicts, cost, repeats)
    top = max(panel.get_ylim()[1] for panel in below)
    for panel in below:
        panel.set_ylim(0, top)
    for name, (kind, _, colour) in _SEARCHES.items():
        found = [
            verdict
            for pairs in judged.values()
            for each, verdict in pairs
            if isinstance(each, kind)
        ]
        _ring_picks(table, by_speed, {each.pick for each in found}, name, colour)
    by_speed.legend(fontsize=8)
    handles, labels = below[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=9, loc="outside lower center", ncols=len(labels))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_table(table: Table, by_boundary: Axes, by_speed: Axes, max_block_share: str) -> None:
    """Draw all single cuts, and the front."""
    import matplotlib.pyplot as plt

    among = table.decouplings(2)
    backprop = table.truth(Decoupling(backbone=table.task.backbone))
    colours = plt.colormaps["viridis"](np.linspace(0.05, 0.85, len(table.aux_choices)))

    for offset, (name, colour) in enumerate(zip(table.aux_choices, colours, strict=True)):
        chosen = [each for each in among if each.aux == [name]]
        places = [each.cuts[0] + 0.14 * (offset - 1.5) for each in chosen]
        means = [100 * table.truth(each) for each in chosen]
        for place, each in zip(places, chosen, strict=True):
            single = [100 * training.test_accuracy for training in table[each].trainings]
            by_boundary.plot([place] * len(single), single, "_", color=colour, markersize=5)
        by_boundary.plot(places, means, "o", color=colour, markersize=5, label=name)
        speeds = [table[each].ideal_speedup for each in chosen]
        by_speed.plot(speeds, means, "o", color=colour, markersize=5)
    for panel in (by_boundary, by_speed):
        panel.axhline(100 * backprop, color=_BACKPROP_COLOUR, linestyle="--", linewidth=1)
        panel.set_ylabel("test accuracy, %")
        panel.grid(alpha=0.25)
    by_speed.annotate(
        "back-propagation",
        (0.25, 100 * backprop),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        xytext=(0, 3),
        fontsize=8,
        color=_BACKPROP_COLOUR,
    )
    by_boundary.set_xlabel("cut after layer")
    by_boundary.set_title("every single cut (dashes: one seed each)", fontsize=10)
    by_boundary.legend(fontsize=8, ncols=2)

    front, best = [], -1.0
    for each in sorted(among, key=lambda each: -table[each].ideal_speedup):
        if table.truth(each) > best:
            best = table.truth(each)
            front.append((table[each].ideal_speedup, 100 * best))
    by_speed.step(*zip(*front, strict=True), where="post", color=_BOUND_COLOUR, linewidth=1)
    bound = table.bound(max_block_share)
    assert bound is not None
    share = bound.limits(2)[0].most / table.compute.total
    by_speed.axvline(1 / share, color=_BOUND_COLOUR, linestyle=":", linewidth=1)
    by_speed.annotate(
        f"largest block at most {max_block_share}",
        (1 / share, 0.02),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        xytext=(4, 0),
        fontsize=8,
        color=_BOUND_COLOUR,
    )
    by_speed.set_xlabel("ideal speed-up (1 / share of the largest block)")
    by_speed.set_title("accuracy against ideal speed-up, and the front", fontsize=10)


def _draw_regrets(
    table: Table,
    panel: Axes,
    max_block_share: str | None,
    judged: Sequence[tuple[SearchOutcome, Judgement]],
    cost: float | None,
    repeats: int,
) -> None:
    """Draw the regret of strategies by trainings seen, and that of searches at their cost."""
    count = len(table.decouplings(2, max_block_share))
    for strategy, colour in zip(STRATEGIES, _STRATEGY_COLOURS, strict=True):
        found = score(
            table, strategy, 2, repeats=repeats, num_queries=count, max_block_share=max_block_share
        )
        regret = 100 * found.regrets.mean(axis=0)
        panel.plot(np.arange(1, len(regret) + 1), regret, color=colour, label=strategy)
    for name, (kind, marker, colour) in _SEARCHES.items():
        points = [(_cost(o, cost), 100 * (v.regret or 0)) for o, v in judged if isinstance(o, kind)]
        if points:
            costs, regrets = zip(*points, strict=True)
            style: dict[str, Any] = {
                "linestyle": "",
                "color": colour,
                "clip_on": False,
                "zorder": 3,
            }
            panel.plot(costs, regrets, marker=".", alpha=0.5, **style)
            label = f"{name}, mean of {len(points)}"
            size = 13 if marker == "*" else 7
            panel.plot(
                [np.mean(costs)],
                [np.mean(regrets)],
                marker=marker,
                markersize=size,
                label=label,
                **style,
            )
    panel.set_xscale("log")
    panel.set_xlim(0.9, 32)
    panel.set_xticks([1, 2, 3, 4, 6, 8, 12, 16, 24], minor=False)
    panel.set_xticks([], minor=True)
    panel.xaxis.set_major_formatter("{x:g}")
    panel.set_xlabel("cost, trainings")
    panel.set_ylabel("mean regret of the pick, % of test accuracy")
    panel.grid(alpha=0.25)
    within = (
        "" if max_block_share is None else f" with a largest block of at most {max_block_share}"
    )
    panel.set_title(f"what is picked of {count}{within}", fontsize=10)


def _cost(outcome: SearchOutcome, cost: float | None) -> float:
    """Return what a search cost, in full trainings."""
    known = outcome.provenance.get("trainings", cost)
    if known is None:
        raise InputError("--cost: must be given, as not every search's file tells its own")
    return float(known)


def _ring_picks(
    table: Table, panel: Axes, picks: Collection[Decoupling], name: str, colour: str
) -> None:
    """Mark what searches of a kind picked, if there are any."""
    if not picks:
        return
    panel.plot(
        [table[each].ideal_speedup for each in picks],
        [100 * table.truth(each) for each in picks],
        linestyle="",
        marker="o",
        markersize=11,
        markerfacecolor="none",
        color=colour,
        label=f"picked by {name}",
    )
