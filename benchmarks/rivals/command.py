"""What ``python -m benchmarks parallel`` and ``memory`` do with their options."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from benchmarks.record import begin, publish
from benchmarks.rivals.compare import compare, tables
from benchmarks.rivals.links import link
from benchmarks.rivals.processes import LOOPBACK, Rival
from benchmarks.rivals.setting import RivalSetting, choose_cuts
from benchmarks.rivals.sides import rivals
from sedona_nni.errors import InputError

__all__ = ["measure"]


@contextlib.contextmanager
def _checked() -> Any:
    try:
        yield
    except ValidationError as error:
        raise InputError.from_validation(error, "options") from None


def measure(
    *,
    first: str,
    cuts: str,
    num_blocks: int,
    microbatches: str,
    sides: str | None,
    repeats: int,
    rate: str | None = None,
    delay_ms: float = 0,
    as_json: bool,
    record: str | None,
    despite: str | None,
    **fields: Any,
) -> None:
    """Measure what is wanted, show it and keep it.

    Args:
        first: Which table comes first, ``rates`` or ``memory``.
        cuts: Where to cut, see `benchmarks.rivals.setting.choose_cuts`.
        num_blocks: K.
        microbatches: Numbers of parts of a batch, by commas.
        sides: Names of rivals by commas, by default all; by a link those of several processes, and
            back-propagation in one as what they are compared with.
        repeats: Turns.
        rate: Of the link between two halves of the processes, e.g. ``1gbit``; None: no link.
        delay_ms: Of that link, one way.
        as_json: Whether to print JSON.
        record: Name of the record to make.
        despite: See `benchmarks.record.begin`.
        fields: The other fields of the setting.

    Raises:
        InputError: if a value breaks its rule, there is no such side, or no link can be made.
    """
    fields |= _machine(fields["batch_size"], microbatches)
    with _checked():  # before blocks are measured, which takes time
        RivalSetting(cuts=(), **fields)
    if rate is None and delay_ms:
        raise InputError.rule("--delay-ms", "must not be given without --link", delay_ms)
    # Before blocks are measured, too: that is work, and the record says what the machine did before
    head = begin(record, despite, n=repeats)
    chosen_cuts = choose_cuts(cuts, num_blocks, **fields)
    with _checked():
        setting = RivalSetting(cuts=chosen_cuts, **fields)
    known = rivals(setting)
    if rate is not None:
        known = {name: each for name, each in known.items() if name == "backprop" or _talks(each)}
    chosen = _chosen(known, sides)
    with contextlib.ExitStack() as stack:
        interfaces = [LOOPBACK] if rate is None else stack.enter_context(link(rate, delay_ms))
        found = compare(chosen, setting, repeats=repeats, interfaces=interfaces, tell=_tell)
    title = f"{setting.backbone} x{setting.width_multiplier:g}, {setting.image_size} px, "
    title += f"batch {setting.batch_size}, {setting.decoupling.in_words()}"
    title += "" if rate is None else f", two hosts joined by {rate}"
    title += f" and {delay_ms:g} ms" if delay_ms else ""
    document = {
        "setting": setting.model_dump(mode="json"),
        "num_blocks": setting.num_blocks,
        "cut_bytes": setting.cut_bytes(),
        "link": None if rate is None else {"rate": rate, "delay_ms": delay_ms},
        **found,
    }
    shown = tables(title, found, setting)
    order = [first, *(kind for kind in shown if kind != first)]
    publish(
        head,
        document,
        [table for kind in order for table in shown[kind]],
        as_json=as_json,
        record=record,
    )


def _machine(batch_size: int, microbatches: str) -> dict[str, Any]:
    """Return how many threads, processes and parts of a batch there are."""
    try:
        numbers = tuple(int(each) for each in microbatches.split(","))
    except ValueError:
        rule = "must be whole numbers by commas"
        raise InputError.rule("--microbatches", rule, microbatches) from None
    cores = len(os.sched_getaffinity(0))
    # As many as can have equal parts of the batch, none of them a single image
    whole = [n for n in range(1, cores + 1) if batch_size % n == 0 and batch_size // n > 1]
    return {"threads": cores, "processes": max(whole, default=1), "microbatches": numbers}


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _talks(rival: Rival) -> bool:
    return rival.bytes_per_step > 0


def _chosen(known: dict[str, Rival], sides: str | None) -> dict[str, Rival]:
    if sides is None:
        return known
    wanted: Sequence[str] = sides.split(",")
    for name in wanted:
        if name not in known:
            raise InputError.rule("--sides", f"must be of {', '.join(known)}", name)
    return {name: rival for name, rival in known.items() if name in wanted}
