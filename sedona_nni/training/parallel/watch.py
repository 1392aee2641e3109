"""Signs of life: how ranks notice that one of them is gone, and end.

Every second each rank leaves a number in the store that all of them share, and looks at those of
the others. One whose number stays the same for ``patience_s`` seconds is gone: it was stopped, its
host was cut off, or its processor is lost. The first to notice, or to fail itself, leaves the
reason; all others find it within a second. A rank that computes is alive, however long it takes.

What waits for a rank that is gone cannot be called back: torch's operations have no way out. So a
rank ends as a process, with one line. Files are whole whenever that happens.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch.distributed as dist

from sedona_nni.training.parallel.layout import Layout

__all__ = ["Failure", "Watch", "read_failure", "record_failure"]

_BEAT_S = 1.0
_FAILURE = "failure"


@dataclass(frozen=True)
class Failure:
    """Why a training ended.

    Attributes:
        kind: Name of the exception's class.
        message: One line.
    """

    kind: str
    message: str


def record_failure(store: dist.Store, failure: Failure) -> Failure:
    """Leave a reason for the others, unless there is one; return the one that is there."""
    text = store.compare_set(_FAILURE, "", json.dumps(asdict(failure)))
    return Failure(**json.loads(text))


def read_failure(store: dist.Store) -> Failure | None:
    """Return the reason that a rank has left, if one has."""
    if not store.check([_FAILURE]):
        return None
    return Failure(**json.loads(store.get(_FAILURE)))


class Watch:
    """A thread that gives and expects signs of life.

    Attributes:
        store: Where; its own connection, as one that waits lets nobody else speak.
        layout: How the training is divided.
        rank: Which of the processes this is.
    """

    def __init__(
        self,
        store: dist.Store,
        layout: Layout,
        rank: int,
        *,
        patience_s: float,
        is_orphaned: Callable[[], bool],
        prints: bool,
    ) -> None:
        """Begin.

        Args:
            store: What all ranks share.
            layout: How the training is divided.
            rank: Which of the processes this is.
            patience_s: How long another may be silent.
            is_orphaned: Says whether the process that started this one is gone.
            prints: Whether this process says why it ends, as nobody else does.
        """
        self.store = store
        self.layout = layout
        self.rank = rank
        self._patience_s = patience_s
        self._is_orphaned = is_orphaned
        self._prints = prints
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Expect nothing any more, as the training has ended."""
        self._stopped.set()

    def _watch(self) -> None:
        beats: dict[int, tuple[str, float]] = {}
        number = 0
        reached = time.monotonic()
        while not self._stopped.wait(_BEAT_S):
            if self._is_orphaned():
                self._end("the process that started it is gone")
            now = time.monotonic()
            try:
                number += 1
                self.store.set(_key(self.rank), str(number))
                failure = read_failure(self.store)
                found = self._look()
                reached = now
            except RuntimeError:  # of torch's store: its host does not answer
                if self._stopped.is_set():
                    return
                if now - reached > self._patience_s:
                    self._end("the host that all ranks know each other from cannot be reached")
                continue
            if failure is not None:
                self._end(failure.message)
            for rank, beat in found.items():
                if beat != beats.get(rank, ("", 0.0))[0]:
                    beats[rank] = (beat, now)
                elif now - beats[rank][1] > self._patience_s:
                    words = self.layout.in_words(rank)
                    message = f"{words} has given no sign of life for {self._patience_s:g} s"
                    self._end(record_failure(self.store, Failure("LostRank", message)).message)

    def _look(self) -> dict[int, str]:
        """Return the numbers of the others, of those that have begun."""
        others = [rank for rank in range(self.layout.num_ranks) if rank != self.rank]
        known = [rank for rank in others if self.store.check([_key(rank)])]
        return {rank: self.store.get(_key(rank)).decode() for rank in known}

    def _end(self, reason: str) -> None:
        if self._stopped.is_set():
            return
        if self._prints:
            print(f"sedona-nni: {reason}", file=sys.stderr, flush=True)
        os._exit(1)


def _key(rank: int) -> str:
    return f"alive/{rank}"
