"""Blocks on more devices, or by slower links, than there are: a simulation from measured times.

Notation (block k of K, batch n; all in seconds):
    c_k     computing of block k on a batch, as measured
    b_k     bytes of a batch's features above block k, over the rate of the link
    d       delay of the link
Block k starts batch n when its features have arrived, and when it is done with batch n-1 and has
handed its features over:
    begin(k, n) = max(arrived(k-1, n), handed(k, n-1))
    end(k, n)   = begin(k, n) + c_k
Two batches may be on their way from a block at a time, and the block above receives into two
buffers, so batch n is handed over when n-2 has left, and leaves when n-1 has left and a buffer is
free:
    handed(k, n)  = max(end(k, n), left(k, n-2))
    left(k, n)    = max(handed(k, n), left(k, n-1), end(k+1, n-2)) + b_k
    arrived(k, n) = left(k, n) + d
Each link is used by one pair of neighbours. After a while a batch takes
    max(c_k of all blocks, b_k of all links, (b_k + d + c_{k+1}) / 2 of all links).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.rivals.links import bits_per_s
from benchmarks.view import Table, View
from sedona_nni.errors import InputError
from sedona_nni.files import read_json

__all__ = ["Pipeline", "simulate"]

_AHEAD = 2
_BATCHES = 1000


@dataclass(frozen=True)
class Pipeline:
    """Blocks on a device each, in a row.

    Attributes:
        block_s: Seconds that each block computes on a batch, K numbers.
        cut_s: Seconds that a batch's features take on each link, K-1 numbers.
        delay_s: Of the links.
    """

    block_s: Sequence[float]
    cut_s: Sequence[float]
    delay_s: float = 0

    def batch_s(self, batches: int = _BATCHES) -> float:
        """Return the seconds that a batch takes in the long run: the mean of the second half.

        Args:
            batches: How many are simulated.
        """
        count, never = len(self.block_s), [0.0] * (batches + _AHEAD)
        ends = [list(never) for _ in range(count + 1)]  # index n + 2, so that n-2 always is one
        left = [list(never) for _ in range(count)]
        handed = [list(never) for _ in range(count)]
        for n in range(_AHEAD, batches + _AHEAD):
            arrived = 0.0
            for k in range(count):
                ends[k][n] = max(arrived, handed[k][n - 1]) + self.block_s[k]
                if k == count - 1:
                    handed[k][n] = ends[k][n]
                    continue
                handed[k][n] = max(ends[k][n], left[k][n - _AHEAD])
                free = max(handed[k][n], left[k][n - 1], ends[k + 1][n - _AHEAD])
                left[k][n] = free + self.cut_s[k]
                arrived = left[k][n] + self.delay_s
        half = batches // 2
        return (ends[count - 1][-1] - ends[count - 1][-1 - half]) / half


def simulate(path: Path, rate: str | None, delay_ms: float) -> View:
    """Say how fast the blocks of a measurement would be on a device each.

    Args:
        path: What ``parallel --json`` printed, or its record, with blocks in turn, whose times are
            taken.
        rate: Of the links, e.g. ``1gbit``; None: as fast as can be.
        delay_ms: Of the links.

    Returns:
        ``simulated``, which is true; ``images_per_s``, and ``speedup``, its ratio to
        back-propagation as measured; ``measured_images_per_s`` and ``simulated_over_measured``, if
        the file also has blocks in parallel by the same link and this machine had a core for each;
        and ``block_s``, ``cut_s``, ``delay_s``. None what is not known.

    Raises:
        InputError: if the file is of no such measurement.
    """
    found = read_json(path)
    try:
        block_s, batch_size = found["greedy"]["block_s"], found["setting"]["batch_size"]
        cut_bytes, cores = found["cut_bytes"], found["header"]["machine"]["cores"]
        given_link = found["link"]
    except (KeyError, TypeError):
        raise InputError.rule(
            "measured", "must be of `parallel --json` with blocks in turn (greedy)", str(path)
        ) from None
    per_s = None if rate is None else bits_per_s(rate) / 8
    cut_s = [0.0 if per_s is None else each / per_s for each in cut_bytes]
    pipeline = Pipeline(block_s, cut_s, delay_ms / 1000)
    images_per_s = batch_size / pipeline.batch_s()
    link = None if rate is None else {"rate": rate, "delay_ms": delay_ms}
    fits = len(block_s) <= cores and given_link == link
    measured = found.get("blocks", {}).get("images_per_s") if fits else None
    base = found.get("backprop", {}).get("images_per_s")
    results: dict[str, Any] = {
        "simulated": True,
        "link": link,
        "images_per_s": images_per_s,
        "speedup": None if base is None else images_per_s / base,
        "measured_images_per_s": measured,
        "simulated_over_measured": None if measured is None else images_per_s / measured,
        "block_s": block_s,
        "cut_s": cut_s,
        "delay_s": delay_ms / 1000,
    }
    return View(results, [_table(results, found["setting"])])


def _table(results: dict[str, Any], setting: dict[str, Any]) -> Table:
    link = "no link" if results["link"] is None else results["link"]["rate"]
    title = f"simulated, not measured: {setting['backbone']} x{setting['width_multiplier']:g}, "
    title += f"{len(results['block_s'])} blocks on a device each, {link}"
    names = ("images_per_s", "speedup", "measured_images_per_s", "simulated_over_measured")
    headings = ["", "images/s", "of back-propagation", "measured", "of it"]
    shown = ["-" if results[name] is None else f"{results[name]:.2f}" for name in names]
    return Table(title, headings, [["blocks, simulated", *shown]])
