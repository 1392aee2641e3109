"""All rivals in one run: they take turns, and each turn is of fresh processes.

Who goes first changes from turn to turn, so that a machine that grows slower or faster meanwhile
treats them alike. A rival that fails once is left out from then on, and its reason stands in its
place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from benchmarks.rivals.processes import LOOPBACK, Interface, Measurement, Rival, RivalError, run
from benchmarks.rivals.setting import RivalSetting
from benchmarks.rivals.sides import in_words
from benchmarks.view import Table

__all__ = ["compare", "tables"]

_MEMORY = (
    "peak_mib",
    "baseline_mib",
    "weights_mib",
    "optimizer_mib",
    "gradient_mib",
    "held_mib",
    "step_mib",
)


def compare(
    rivals: Mapping[str, Rival],
    setting: RivalSetting,
    *,
    repeats: int,
    interfaces: Sequence[Interface] = (LOOPBACK,),
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure rivals in turn.

    Args:
        rivals: By name.
        setting: At what sizes.
        repeats: Turns; each has its own steps to warm up.
        interfaces: What processes talk by.
        tell: Called with a line after each measurement.

    Returns:
        Under each rival's name either its ``failure`` or ``images_per_s``, the median over the
        turns of the batch over the slowest process's seconds per step; ``values_images_per_s``,
        of each turn; ``exact``, ``statistics_of``, ``threads`` and ``bytes_per_step``, see
        `benchmarks.rivals.processes.Rival`; and, a list of one number per process each, medians of
        what `benchmarks.rivals.processes.Measurement` has, with ``allocated_mib``, the most that
        torch's tensors take, held_mib + step_mib. For a single process that has all blocks
        ``block_s``, a number per block.
        ``share_reached``: rate of the blocks in parallel over that which the busiest of them
        allows, the batch over its seconds of computing per step. ``share_reached_alone``: likewise,
        with the seconds of each block in one process, where no other computes beside it. None
        where something was not measured.
    """
    turns: dict[str, list[list[Measurement]]] = {name: [] for name in rivals}
    failures: dict[str, str] = {}
    for turn in range(repeats):
        for name in list(rivals)[:: 1 if turn % 2 == 0 else -1]:
            if name not in failures:
                try:
                    turns[name].append(run(rivals[name], setting, interfaces))
                    rate = _rate(turns[name][-1], setting)
                    found = f"{rate:.1f} images/s"
                except RivalError as error:
                    found = failures[name] = str(error)
                tell(f"turn {turn + 1} of {repeats}, {in_words(name, setting)}: {found}")
    document: dict[str, Any] = {
        name: {"failure": failures[name]}
        if name in failures
        else _summary(rivals[name], setting, turns[name])
        for name in rivals
    }
    return document | _shares(document, setting)


def _rate(turn: Sequence[Measurement], setting: RivalSetting) -> float:
    """Return images/s of the slowest process: others may be working off what waits for them."""
    return setting.batch_size / max(measured.step_s for measured in turn)


def _summary(
    rival: Rival, setting: RivalSetting, turns: Sequence[Sequence[Measurement]]
) -> dict[str, Any]:
    values = [_rate(turn, setting) for turn in turns]
    processes = [[asdict(measured) for measured in repeats] for repeats in zip(*turns, strict=True)]

    def medians(field: str) -> list[float] | None:
        of_all = [[repeat[field] for repeat in repeats] for repeats in processes]
        return None if of_all[0][0] is None else [median(of_one) for of_one in of_all]

    summary: dict[str, Any] = {
        "images_per_s": median(values),
        "values_images_per_s": values,
        "exact": rival.exact,
        "statistics_of": rival.statistics_of,
        "threads": rival.threads,
        "bytes_per_step": rival.bytes_per_step,
        **{field: medians(field) for field in ("first_step_s", "busy_s", "sent_bytes", *_MEMORY)},
    }
    summary["allocated_mib"] = [
        held + step for held, step in zip(summary["held_mib"], summary["step_mib"], strict=True)
    ]
    if (blocks := processes[0][0]["block_s"]) is not None:
        of_blocks = [[repeat["block_s"][k] for repeat in processes[0]] for k in range(len(blocks))]
        summary["block_s"] = [median(of_one) for of_one in of_blocks]
    return summary


def _shares(document: dict[str, Any], setting: RivalSetting) -> dict[str, float | None]:
    blocks, alone = (document.get(name, {}) for name in ("blocks", "greedy"))
    rate = blocks.get("images_per_s")

    def share(seconds: Sequence[float] | None) -> float | None:
        return None if rate is None or not seconds else rate * max(seconds) / setting.batch_size

    return {
        "share_reached": share(blocks.get("busy_s")),
        "share_reached_alone": share(alone.get("block_s")),
    }


def tables(title: str, document: dict[str, Any], setting: RivalSetting) -> dict[str, list[Table]]:
    """Return for readers what was measured, as ``rates`` and as ``memory``.

    Args:
        title: What was measured.
        document: What `compare` returned.
        setting: At what sizes.

    Returns:
        Tables under each of the two, and under ``failures`` one of those, if there are any.
    """
    sides = {name: side for name, side in document.items() if isinstance(side, dict)}
    measured = {
        in_words(name, setting): side for name, side in sides.items() if "failure" not in side
    }
    failed = [
        [in_words(name, setting), side["failure"]]
        for name, side in sides.items()
        if "failure" in side
    ]
    base = sides.get("backprop", {})
    return {
        "rates": [_rates(title, measured, base), _sent(measured, setting)],
        "memory": [_memory(measured, base)],
        "failures": [Table("not measured", ["", "why"], failed)] if failed else [],
    }


def _rates(title: str, measured: dict[str, Any], base: dict[str, Any]) -> Table:
    rows = [
        [
            words,
            *(f"{value:.1f}" for value in (side["images_per_s"], *_range(side))),
            _ratio(side["images_per_s"], base.get("images_per_s")),
            f"{max(side['first_step_s']):.1f}",
        ]
        for words, side in measured.items()
    ]
    title += "; ratio: to back-propagation; start: to the end of the first step, s"
    return Table(title, ["", "images/s", "from", "to", "ratio", "start"], rows)


def _range(side: dict[str, Any]) -> tuple[float, float]:
    return min(side["values_images_per_s"]), max(side["values_images_per_s"])


def _sent(measured: dict[str, Any], setting: RivalSetting) -> Table:
    rows = [
        [
            words,
            str(len(side["peak_mib"])),
            str(side["threads"]),
            f"{side['bytes_per_step'] / 2**20:.2f}",
            _exactness(side, setting),
        ]
        for words, side in measured.items()
    ]
    title = "processes, threads of each, MiB that all send per step, whose gradient is exact"
    return Table(title, ["", "processes", "threads", "sent", "exact"], rows)


def _memory(measured: dict[str, Any], base: dict[str, Any]) -> Table:
    rows = []
    for words, side in measured.items():
        net = [peak - own for peak, own in zip(side["peak_mib"], side["baseline_mib"], strict=True)]
        amounts = [
            side["peak_mib"],
            net,
            *(side[field] for field in ("held_mib", "step_mib", "allocated_mib")),
        ]
        known = base.get("allocated_mib")
        rows.append(
            [
                words,
                *(f"{max(each):,.0f}" for each in amounts),
                _ratio(max(side["allocated_mib"]), None if known is None else max(known)),
                f"{sum(side['allocated_mib']):,.0f}",
            ]
        )
    title = (
        "MiB of the process that needs most: its peak, with all that is resident; net of Python "
    )
    title += (
        "and torch; of torch's tensors those held between steps (weights, optimizer), those of "
    )
    title += "a step (activations, gradients) and both; ratio to back-propagation; all processes"
    headings = ["", "peak", "net", "held", "step", "both", "ratio", "all"]
    return Table(title, headings, rows)


def _ratio(value: float, base: float | None) -> str:
    return "-" if base is None else f"{value / base:.2f}"


def _exactness(side: dict[str, Any], setting: RivalSetting) -> str:
    if not side["exact"]:
        return "no"
    if side["statistics_of"] == setting.batch_size:
        return "yes"
    return f"batch norm of {side['statistics_of']}"
