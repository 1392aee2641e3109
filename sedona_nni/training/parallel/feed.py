"""Features that wait for nobody: what asynchronous learning hands up.

The lower rank leaves a batch; a thread sends it as soon as the last one has left, and a later batch
takes the place of one that still waits. At the other end a thread receives whatever comes and keeps
the newest. Neither holds up the block that computes. What travels goes through main memory.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Arrival", "Arrivals", "Feed"]

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64)
_MOST_DIMENSIONS = 6


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

    def __init__(self, group: dist.ProcessGroup, target: int) -> None:
        """Begin.

        Args:
            group: Of processes; nothing else is sent in it between the two.
            target: The rank above.
        """
        self._group = group
        self._target = target
        self._waiting: Arrival | None = None
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self.bytes_sent = 0
        threading.Thread(target=self._run, name="feed", daemon=True).start()

    def put(self, arrival: Arrival) -> None:
        """Leave a batch in place of one that still waits.

        Raises:
            RuntimeError: if the rank above is gone.
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
            except RuntimeError as error:
                with self._changed:
                    self._error = error
                return

    def _send(self, arrival: Arrival) -> None:
        parts = [part.detach().cpu() for part in (arrival.features, arrival.labels)]
        header = [arrival.steps]
        for part in parts:
            padding = [0] * (_MOST_DIMENSIONS - part.dim())
            header += [_DTYPES.index(part.dtype), part.dim(), *part.shape, *padding]
        for part in (torch.tensor(header), *parts):
            # In the order of memory; the other end restores the layout of maps
            dist.send(_in_memory(part), self._target, group=self._group)
            self.bytes_sent += part.nbytes


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
            RuntimeError: if the rank below is gone.
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
            except RuntimeError as error:
                with self._changed:
                    self._error = error
                    self._changed.notify()
                return
            with self._changed:
                self._kept.append(arrival)
                self._changed.notify()

    def _receive(self) -> Arrival:
        header = torch.empty(1 + 2 * (2 + _MOST_DIMENSIONS), dtype=torch.int64)
        dist.recv(header, self._source, group=self._group)
        steps, *rest = header.tolist()
        parts = []
        for place in range(2):
            dtype, dimensions, *shape = rest[place * (2 + _MOST_DIMENSIONS) :]
            memory = torch.empty(shape[:dimensions], dtype=_DTYPES[dtype])
            if dimensions == 4:
                memory = memory.contiguous(memory_format=torch.channels_last)
            dist.recv(_in_memory(memory), self._source, group=self._group)
            parts.append(memory)
        return Arrival(steps, *parts)


def _in_memory(part: Tensor) -> Tensor:
    """Return a view of a tensor's memory: of maps, channels last, as networks lay them out."""
    if part.dim() == 4:
        return part.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    return part.contiguous()
