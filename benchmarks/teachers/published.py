"""What the authors of teachers have published, beside what ledgers of ours say.

InfoPro: test errors on CIFAR-10, means of five trainings, table 2 of Wang et al. (ICLR 2021), which
their release shows (github.com/blackfeather-wang/InfoPro-Pytorch, figs/cifar_k.png). Its "greedy
SL" has a linear classifier at each cut. FDG: test errors on CIFAR-10 by the README of its release
(github.com/ZHUANGHP/FDG), the rivals run by its authors.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks.teachers.ledger import REFERENCE, Row, rows_of
from benchmarks.view import Table, View

__all__ = ["PUBLISHED", "Published", "published"]


@dataclass(frozen=True)
class Published:
    """Test errors of one network, %.

    Attributes:
        source: Whose.
        network: Which.
        whole: By back-propagation.
        errors: By our name of the teacher or method, by K.
    """

    source: str
    network: str
    whole: float
    errors: Mapping[str, Mapping[int, float]]


PUBLISHED = (
    Published(
        "InfoPro",
        "ResNet-32",
        7.37,
        {
            "linear": {2: 10.30, 4: 16.07, 8: 21.19},
            "mlp-sr": {2: 8.69, 4: 11.48, 8: 14.17},
            "infopro": {2: 8.13, 4: 8.64, 8: 11.40},
            "infopro-contrast": {2: 7.76, 4: 8.58, 8: 11.13},
        },
    ),
    Published(
        "InfoPro",
        "ResNet-110",
        6.50,
        {
            "linear": {2: 8.21, 4: 13.16, 8: 15.61},
            "mlp-sr": {2: 7.70, 4: 10.50, 8: 12.46},
            "infopro": {2: 7.01, 4: 7.96, 8: 9.40},
            "infopro-contrast": {2: 6.42, 4: 7.30, 8: 8.93},
        },
    ),
    Published(
        "FDG",
        "ResNet-56",
        6.19,
        {
            "mlp-sr": {2: 6.77, 4: 9.65},
            "ddg": {2: 6.60, 4: 6.61},
            "fr": {2: 6.07, 4: 6.48},
            "fdg": {2: 5.90, 4: 6.14},
        },
    ),
)
"""In each, and for each K, the methods have the same order, from the first, the worst, on."""


def published(ledgers: Sequence[Path]) -> View:
    """Return by how much errors exceed back-propagation's, published and ours, a table per source.

    Of ours there is beside it how many pairs of methods are in the published order.

    Args:
        ledgers: Of experiments ``experiments/teachers/compare_*.yml``, one per network.

    Raises:
        InputError: if nothing in one has been trained by back-propagation.
    """
    ours = {path.stem.removeprefix("compare_"): _gaps(rows_of(path)) for path in ledgers}
    results: dict[str, Any] = {}
    tables = []
    for source in dict.fromkeys(each.source for each in PUBLISHED):
        theirs = [each for each in PUBLISHED if each.source == source]
        names = [*theirs[0].errors]
        counts = [*theirs[0].errors[names[0]]]
        gaps = {
            each.network: {
                (name, k): error - each.whole
                for name, by_k in each.errors.items()
                for k, error in by_k.items()
            }
            for each in theirs
        }
        gaps |= {
            network: {(n, k): found[n, k] for n in names for k in counts if (n, k) in found}
            for network, found in ours.items()
        }
        rows, alike = [], []
        for k in counts:
            for network, of in gaps.items():
                values = [of.get((name, k)) for name in names]
                pairs = _in_order(values) if network in ours else None
                shown = "as published" if pairs is None else "{} of {}".format(*pairs)
                label = network if pairs is None else f"{network} here"
                rows.append([f"K = {k}, {label}", *map(_signed, values), shown])
                if pairs is not None:
                    alike.append({"network": network, "num_blocks": k, "pairs": pairs})
        tables.append(
            Table(
                f"Test error over that of back-propagation, percentage points: {source}'s authors "
                f"on CIFAR-10 ({', '.join(each.network for each in theirs)}), and ours",
                ["network", *(f"`{name}`" for name in names), "pairs in this order"],
                rows,
            )
        )
        results[source] = {
            "gaps": {
                network: [{"name": n, "num_blocks": k, "points": gap} for (n, k), gap in by.items()]
                for network, by in gaps.items()
            },
            "in_order": alike,
        }
    return View(results, tables)


def _gaps(rows: Mapping[tuple[str, int], Row]) -> dict[tuple[str, int], float]:
    whole = statistics.fmean(rows[REFERENCE].accuracies)
    return {key: 100 * (whole - statistics.fmean(row.accuracies)) for key, row in rows.items()}


def _signed(gap: float | None) -> str:
    return "–" if gap is None else f"{gap:+.2f}"


def _in_order(gaps: Sequence[float | None]) -> tuple[int, int]:
    """Return how many pairs fall, and of how many that are known."""
    pairs = [(a, b) for a, b in combinations(gaps, 2) if a is not None and b is not None]
    return sum(a > b for a, b in pairs), len(pairs)
