"""Features that wait for nobody: what asynchronous learning hands up.

The lower rank leaves a batch; a thread sends it as soon as the last one has left, and a later batch
takes the place of one that still waits. At the other end a thread receives whatever comes and keeps
the newest. Neither holds up the block that computes. What travels goes through main memory, each
batch behind a header that says how it comes.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from sedona_nni.training.parallel.wire_format import FORMAT_NUMBERS, WireFormat

__all__ = ["Arrival", "Arrivals", "Feed"]

_CPU = torch.device("cpu")


class Arrival(NamedTuple):
    """A batch on its way up.

    Attributes:
        steps: How many steps the first block had begun, as far as the sender knew.
        features: What a block made of it, (B, ...).
        labels: Its labels.
    """

    steps: int
    features: Tensor
    labels: Tensor


class Feed:
    """The lower end."""

    def __init__(self, group: dist.ProcessGroup, target: int, wire: torch.dtype) -> None:
        """Begin.

        Args:
            group: Of processes; nothing else is sent in it between the two.
            target: The rank above.
            wire: What features in float32 travel in.
        """
        self._group = group
        self._target = target
        self._wire = wire
        self._waiting: Arrival | None = None
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self.bytes_sent = 0
        threading.Thread(target=self._run, name="feed", daemon=True).start()

    def put(self, arrival: Arrival) -> None:
        """Leave a batch in place of one that still waits.

        Raises:
            RuntimeError: if the rank above is gone; or what else the thread has ended with.
        """
        with self._changed:
            if self._error is not None:
                raise self._error
            self._waiting = arrival
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None)
                arrival, self._waiting = self._waiting, None
            assert arrival is not None
            try:
                self._send(arrival)
            except Exception as error:  # raised where it is waited for
                with self._changed:
                    self._error = error
                return

    def _send(self, arrival: Arrival) -> None:
        parts = [part.detach().cpu() for part in (arrival.features, arrival.labels)]
        # Mixed labels are real numbers, too; few, so that they gain nothing by being rounded
        formats = [
            WireFormat.of(part, wire)
            for part, wire in zip(parts, (self._wire, arrival.labels.dtype), strict=True)
        ]
        header = [arrival.steps, len(arrival.labels)]
        header += [number for form in formats for number in form.numbers()]
        packed = [form.packed(part) for form, part in zip(formats, parts, strict=True)]
        for message in (torch.tensor(header), *packed):
            dist.send(message, self._target, group=self._group)
            self.bytes_sent += message.nbytes


class Arrivals:
    """The upper end."""

    def __init__(self, group: dist.ProcessGroup, source: int, most: int) -> None:
        """Begin.

        Args:
            group: Of processes, see `Feed`.
            source: The rank below.
            most: How many batches are kept, the newest.
        """
        self._group = group
        self._source = source
        self._kept: deque[Arrival] = deque(maxlen=most)
        self._error: Exception | None = None
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="arrivals", daemon=True).start()

    def take(self, *, wait: bool) -> list[Arrival]:
        """Return what has arrived since the last call, oldest first.

        Args:
            wait: Whether to wait until there is something.

        Raises:
            RuntimeError: if the rank below is gone; or what else the thread has ended with.
        """
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._kept or self._error is not None)
            if self._error is not None:
                raise self._error
            taken = [*self._kept]
            self._kept.clear()
        return taken

    def _run(self) -> None:
        while True:
            try:
                arrival = self._receive()
            except Exception as error:  # raised where it is waited for
                with self._changed:
                    self._error = error
                    self._changed.notify()
                return
            with self._changed:
                self._kept.append(arrival)
                self._changed.notify()

    def _receive(self) -> Arrival:
        header = torch.empty(2 + 2 * FORMAT_NUMBERS, dtype=torch.int64)
        dist.recv(header, self._source, group=self._group)
        steps, count, *rest = header.tolist()
        parts = []
        for numbers in (rest[:FORMAT_NUMBERS], rest[FORMAT_NUMBERS:]):
            form = WireFormat.read(numbers)
            memory = form.empty(count, _CPU)
            dist.recv(memory, self._source, group=self._group)
            parts.append(form.unpacked(memory))
        return Arrival(steps, *parts)
