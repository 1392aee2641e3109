"""How time and memory of a step grow with one of its sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.search_steps import StepSetting
from benchmarks.side_by_side import Prepare, Side, compare
from benchmarks.view import Table
from sedona_nni.errors import InputError
from sedona_nni.files import write_atomically
from sedona_nni.models import num_layers

__all__ = ["OVER", "draw", "points", "scaling_table", "with_value"]

OVER = ("inner-steps", "batch-size", "boundaries", "threads")


def with_value(
    setting: StepSetting, threads: int, over: str, value: str
) -> tuple[StepSetting, int, int]:
    """Return the setting and the threads with one of the sizes replaced, and the size.

    Boundaries are those of a backbone, whose name is then the value.

    Raises:
        InputError: if the value is none of that size.
    """
    if over == "boundaries":
        return setting.model_copy(update={"backbone": value}), threads, num_layers(value) - 1
    lowest = 2 if over == "batch-size" else 1
    if not value.isdigit() or int(value) < lowest:
        raise InputError.rule("--values", f"must be whole numbers from {lowest} on", value)
    if over == "threads":
        return setting, int(value), int(value)
    changed = setting.model_copy(update={over.replace("-", "_"): int(value)})
    return changed, threads, int(value)


def points(
    setting: StepSetting,
    threads: int,
    over: str,
    values: Sequence[str],
    prepare: dict[str, Prepare],
    *,
    repeats: int,
) -> list[dict[str, Any]]:
    """Measure at each value, see `side_by_side.compare`, in new processes each time.

    Returns:
        For each value what `compare` returns, ``value`` as it was given, and ``size``.
    """
    asked = [(value, *with_value(setting, threads, over, value)) for value in values]
    return [
        {
            "value": value,
            "size": size,
            **compare(
                [
                    Side(name, function, changed, changed.device, threads)
                    for name, function in prepare.items()
                ],
                repeats=repeats,
            ),
        }
        for value, changed, threads, size in asked
    ]


def scaling_table(
    title: str, over: str, measured: Sequence[dict[str, Any]], names: Sequence[str]
) -> Table:
    """Return what `points` returned for readers."""
    headings = [over]
    for name in names:
        headings += [f"{name}, s", f"{name}, MiB"]
    headings += ["ratio", "memory"] if len(names) == 2 else []
    rows = []
    for point in measured:
        backbone = over == "boundaries"
        row = [f"{point['size']} ({point['value']})" if backbone else point["value"]]
        for name in names:
            side = point[name]
            failure = side.get("failure")
            row += [failure, "-"] if failure else []
            row += [] if failure else [f"{side['median_s']:.3f}", f"{side['peak_mib']:,.0f}"]
        if len(names) == 2:
            ratios = (point["ratio"], point["memory_ratio"])
            row += ["-" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
        rows.append(row)
    return Table(title, headings, rows)


def draw(
    path: Path, title: str, over: str, measured: Sequence[dict[str, Any]], names: Sequence[str]
) -> None:
    """Draw time and peak resident memory over the size, into a file of matplotlib's formats."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(title)
    for axes, field, label in zip(
        figure.subplots(1, 2),
        ("median_s", "peak_mib"),
        ("median time, s", "peak resident memory, MiB"),
        strict=True,
    ):
        for name in names:
            known = [(p["size"], p[name][field]) for p in measured if field in p[name]]
            axes.plot(*zip(*known, strict=True), marker="o", label=name) if known else None
        axes.set(xlabel=over.replace("-", " "), ylabel=label)
        axes.set_ylim(bottom=0)
        axes.legend()
    kind = path.suffix.removeprefix(".") or "png"
    write_atomically(path, lambda temporary: figure.savefig(temporary, format=kind))
