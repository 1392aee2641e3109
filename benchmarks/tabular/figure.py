"""The table as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.tabular.probe import EVIDENCE, Probes, smoothed
from benchmarks.tabular.score import STRATEGIES, score
from benchmarks.tabular.table import Table
from sedona_nni.decoupling import Decoupling

__all__ = ["draw"]

_BACKPROP_COLOUR = "0.35"


def draw(
    table: Table,
    path: Path,
    *,
    probes: Probes | None = None,
    repeats: int = 100,
    max_block_share: str = "1.3/K",
) -> None:
    """Draw three panels: accuracy by boundary and auxiliary network, accuracy against ideal
    speed-up with the Pareto front, and the regret of strategies by trainings seen.

    Args:
        table: With all decouplings into two blocks, and back-propagation.
        path: The picture; the format is that of the name's end.
        probes: Of all decouplings; the third panel then shows the regret of choosing by their local
            accuracy, smoothed, at their cost.
        repeats: See `score`.
        max_block_share: The bound that the second panel marks.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    among = table.decouplings(2)
    backprop = table.truth(Decoupling(backbone=table.task.backbone))
    figure, (by_boundary, by_speed, by_query) = plt.subplots(
        1, 3, figsize=(13, 4), layout="constrained"
    )
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
    by_speed.step(*zip(*front, strict=True), where="post", color="tab:red", linewidth=1)
    bound = table.bound(max_block_share)
    assert bound is not None
    share = bound.limit(2) / table.compute.total
    by_speed.axvline(1 / share, color="tab:red", linestyle=":", linewidth=1)
    by_speed.annotate(
        f"largest block at most {max_block_share}",
        (1 / share, 0.02),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        xytext=(4, 0),
        fontsize=8,
        color="tab:red",
    )
    by_speed.set_xlabel("ideal speed-up (1 / share of the largest block)")
    by_speed.set_title("accuracy against ideal speed-up, and the front", fontsize=10)

    for strategy in STRATEGIES:
        found = score(table, strategy, 2, repeats=repeats, num_queries=len(among))
        regret = 100 * found.regrets.mean(axis=0)
        by_query.plot(np.arange(1, len(regret) + 1), regret, label=strategy)
    if probes is not None:
        cost = len(among) * probes.steps / table.steps
        mean = 100 * np.mean([table.regret(pick, among) for pick in _local_picks(table, probes)])
        label = f"local accuracy, probes of {probes.steps} steps"
        by_query.plot([cost], [mean], "k*", markersize=11, label=label, clip_on=False, zorder=3)
    by_query.set_xlabel("trainings seen")
    by_query.set_ylabel("mean regret of the pick, % of test accuracy")
    by_query.set_ylim(bottom=0)
    by_query.grid(alpha=0.25)
    by_query.legend(fontsize=8, loc="upper right", bbox_to_anchor=(1, 0.9))
    by_query.set_title("what strategies pick", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _local_picks(table: Table, probes: Probes) -> list[Decoupling]:
    """Return what the probes of each seed point at."""
    among = table.decouplings(2)
    known = {(each.seed, each.cuts, each.aux): each for each in probes.probes}
    picks = []
    for seed in sorted({each.seed for each in probes.probes}):
        signs = [known[seed, tuple(each.cuts), tuple(each.aux)] for each in among]
        evidence = smoothed(EVIDENCE["local accuracy"](signs), among, table.aux_choices)
        picks.append(among[int(np.argmax(evidence))])
    return picks
