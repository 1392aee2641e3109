"""How a report writes numbers, and its table for the terminal."""

from __future__ import annotations

from sedona_nni.reporting.data import Experiment, Group, SearchView, Spread, StrategySummary
from sedona_nni.reporting.results import trials_in_words

__all__ = [
    "count",
    "experiment_in_words",
    "mib",
    "nats",
    "percent",
    "search_in_words",
    "seconds",
    "spread",
    "summary_table",
    "task_in_words",
    "times",
]


def percent(value: float | None, decimals: int = 1) -> str:
    """Return a fraction as for instance ``"97.2%"``."""
    return "–" if value is None else f"{value:.{decimals}%}"


def nats(value: float, decimals: int = 3) -> str:
    """Return a loss or evidence, without a sign where it rounds to 0."""
    return f"{round(value, decimals) + 0.0:.{decimals}f}"


def times(value: float | None) -> str:
    """Return a speed-up."""
    return "–" if value is None else f"{value:.2f}×"


def mib(value: float | None) -> str:
    """Return an amount of memory."""
    return "–" if value is None else f"{value:.1f} MiB"


def count(value: float | None) -> str:
    """Return a number of things, with its thousands apart."""
    return "–" if value is None else f"{value:,.0f}"


def seconds(value: Spread | float | None) -> str:
    """Return a time, or mean and standard deviation of several, in a unit that suits it."""
    if value is None:
        return "–"
    times = value if isinstance(value, Spread) else Spread(mean=value, sd=None, values=[value])
    size, unit = next(
        (scale for scale in ((3600.0, " h"), (60.0, " min")) if times.mean >= 2 * scale[0]),
        (1.0, " s"),
    )
    return spread(times, factor=1 / size, unit=unit)


def spread(value: Spread | None, form: str = "{:.1f}", factor: float = 1, unit: str = "") -> str:
    """Return mean and, of several values, standard deviation: ``"97.2 ± 0.4%"``.

    Args:
        value: The values.
        form: Of each number.
        factor: What they are multiplied by.
        unit: What follows.
    """
    if value is None:
        return "–"
    text = form.format(value.mean * factor)
    if value.sd is not None:
        text += " ± " + form.format(value.sd * factor)
    return text + unit


def task_in_words(group: Group) -> str:
    """Return for instance ``"vgg11 on digits"``; of a study with what there is to choose from."""
    words = f"{group.task.backbone} on {group.task.dataset}"
    return words if group.space is None else f"{words}, {group.space}"


def search_in_words(search: SearchView) -> str:
    """Return what was done in a search or, as long as nothing was found, what it is."""
    return search.kind if search.result is None else search.result.in_words()


def experiment_in_words(experiment: Experiment) -> str:
    """Return how far an experiment is."""
    ended = str(experiment.succeeded + experiment.failed + experiment.stopped)
    if experiment.planned is not None:
        ended += f" of {experiment.planned}"
    text = f"experiment {experiment.name} is {experiment.state}: {ended} trials have ended"
    text += f"; open: {', '.join(experiment.open)}" if experiment.open else ""
    return text + (f"; failed: {', '.join(experiment.lost)}" if experiment.lost else "")


def summary_table(group: Group) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows, one for each strategy.

    Of a single experiment there is the decoupling of the best training, of several their number n.
    Measured speed-ups and peaks of processes have a column where they are known.
    """
    several, measured = group.is_repeated, group.has_measured_speedups
    resident = any(summary.peak_resident_mib is not None for summary in group.strategies)
    headings = [
        "strategy",
        "n" if several else "decoupling",
        "validation accuracy",
        "test accuracy",
        "ideal speed-up",
        *(["measured speed-up"] if measured else []),
        "peak memory",
        *(["process peak"] if resident else []),
        "training",
        "search",
        "in all",
        "trials",
    ]
    return headings, [
        _summary_cells(summary, several, measured, resident) for summary in group.strategies
    ]


def _summary_cells(
    summary: StrategySummary, several: bool, measured: bool, resident: bool
) -> list[str]:
    decoupling = summary.best[0].decoupling.in_words() if summary.best else ""
    return [
        summary.strategy,
        str(summary.num_experiments) if several else decoupling,
        spread(summary.validation_accuracy, factor=100, unit="%"),
        spread(summary.test_accuracy, factor=100, unit="%"),
        spread(summary.ideal_speedup, "{:.2f}", unit="×"),
        *([spread(summary.measured_speedup, "{:.2f}", unit="×")] if measured else []),
        spread(summary.peak_memory_mib, "{:.0f}", unit=" MiB"),
        *([spread(summary.peak_resident_mib, "{:.0f}", unit=" MiB")] if resident else []),
        seconds(summary.time_s),
        seconds(summary.search_time_s),
        seconds(summary.total.get("time_s")),
        trials_in_words(summary.num_trials, summary.num_failed, summary.num_stopped),
    ]
