"""Signs of life: how ranks notice that one of them is gone, and end.

Every second each rank leaves a number in the store that all of them share, and looks at those of
the others. One whose number stays the same for ``patience_s`` seconds is gone: it was stopped, its
host was cut off, or its processor is lost. The first to notice, or to fail itself, leaves the
reason; all others find it within a second. A rank that computes is alive, however long it takes.
If the store itself gives no answer for as long, its host is gone.

What waits for a rank that is gone cannot be called back, nor can who asks a store that is silent:
torch's operations have no way out. So a rank ends as a process, with one line. Files are whole
whenever that happens.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch.distributed as dist

from sedona_nni.training.parallel.layout import Layout

__all__ = ["LINGER_S", "Failure", "Watch", "read_failure", "record_failure"]

_BEAT_S = 1.0
_FAILURE = "failure"

LINGER_S = 2.5 * _BEAT_S
"""How long a store stays after a failure, seconds, so that all hear of it."""


@dataclass(frozen=True)
class Failure:
    """Why a training ended.

    Attributes:
        kind: Name of the exception's class.
        message: One line.
    """

    kind: str
    message: str

    @property
    def exit_code(self) -> int:
        """What a process ends with for it: 2 for a mistake of the user, as everywhere."""
        return 2 if self.kind in ("InputError", "UnwritableError") else 1


def record_failure(store: dist.Store, failure: Failure) -> Failure:
    """Leave a reason for the others, unless there is one; return the one that is there.

    Without a store there are no others; then it is the one given.
    """
    try:
        text = store.compare_set(_FAILURE, "", json.dumps(asdict(failure)))
    except RuntimeError:  # of torch's store, whose host is gone
        return failure
    return Failure(**json.loads(text))


def read_failure(store: dist.Store) -> Failure | None:
    """Return the reason that a rank has left, if one has."""
    if not store.check([_FAILURE]):
        return None
    return Failure(**json.loads(store.get(_FAILURE)))


class Watch:
    """Threads that give and expect signs of life.

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
        is_launched: bool,
    ) -> None:
        """Begin.

        Args:
            store: What all ranks share.
            layout: How the training is divided.
            rank: Which of the processes this is.
            patience_s: How long another may be silent.
            is_orphaned: Says whether the process that started this one is gone.
            is_launched: Whether a launcher has started this process. Then others may begin later,
                it says itself why it ends, and with rank 0 the store may end.
        """
        self.store = store
        self.layout = layout
        self.rank = rank
        self._patience_s = patience_s
        self._is_orphaned = is_orphaned
        self._is_launched = is_launched
        self._passed_s = 0.0
        self._answered_s = 0.0
        self._is_failing = False
        self._beats: dict[int, tuple[str, float]] = {}  # of each rank, and when they were new
        self._stopped = threading.Event()
        self._ending = threading.Lock()
        for work in (self._guard, self._speak):
            threading.Thread(target=work, name="watch", daemon=True).start()

    def stop(self) -> None:
        """Expect nothing any more, as the training has ended."""
        self._stopped.set()

    def fail(self, store: dist.Store, failure: Failure) -> Failure:
        """Do as `record_failure` does, and stop; a store that is silent ends this process."""
        self._is_failing = True
        recorded = record_failure(store, failure)
        self.stop()
        return recorded

    def _guard(self) -> None:
        """Count the time, and end if nobody is there who could say more.

        Time in which this process stood still itself does not count: it heard of nobody.
        """
        before = time.monotonic()
        while not self._stopped.wait(_BEAT_S):
            if self._is_orphaned():
                self._end(Failure("LostRank", "the process that started it is gone"))
            now = time.monotonic()
            self._passed_s += min(now - before, 2 * _BEAT_S)
            before = now
            if self._passed_s - self._answered_s > self._patience_s:
                words = self.layout.in_words(0)  # whose host has the store
                self._end(Failure("LostRank", f"the host of {words} cannot be reached"))

    def _speak(self) -> None:
        """Tell the others that this rank is alive, and look whether they are."""
        number = 0
        while True:
            with contextlib.suppress(RuntimeError):  # of torch's store: its host does not answer
                number += 1
                self.store.set(_key(self.rank), str(number))
                failure = read_failure(self.store)
                found = self._look()
                self._answered_s = self._passed_s
                if failure is not None and not self._is_failing:
                    self._end(failure)
                self._check(found)
            if self._stopped.wait(_BEAT_S):
                return

    def _look(self) -> dict[int, str]:
        """Return the numbers of the others, of those that have or ought to have begun."""
        others = [rank for rank in range(self.layout.num_ranks) if rank != self.rank]
        known = [rank for rank in others if self.store.check([_key(rank)])]
        late = {} if self._is_launched else dict.fromkeys(others, "none")
        return {**late, **{rank: self.store.get(_key(rank)).decode() for rank in known}}

    def silent(self, seconds: float) -> list[int]:
        """Return the ranks that have given no sign of life for so long."""
        return [
            rank
            for rank, (_, since) in sorted(self._beats.items())
            if self._passed_s - since > seconds
        ]

    def _check(self, found: dict[int, str]) -> None:
        """Note when each number was new, and end if one has been old for too long."""
        beats = self._beats
        for rank, beat in found.items():
            if beat != beats.get(rank, ("", 0.0))[0]:
                beats[rank] = (beat, self._passed_s)
            elif self._passed_s - beats[rank][1] > self._patience_s:
                words = self.layout.in_words(rank)
                message = f"{words} has given no sign of life for {self._patience_s:g} s"
                self._end(record_failure(self.store, Failure("LostRank", message)))

    def _end(self, failure: Failure) -> None:
        with self._ending:  # one line is enough
            if self._stopped.is_set():
                return
            if self._is_launched:
                print(f"sedona-nni: {failure.message}", file=sys.stderr, flush=True)
                time.sleep(LINGER_S if self.rank == 0 else 0)
            os._exit(failure.exit_code)


def _key(rank: int) -> str:
    return f"alive/{rank}"
