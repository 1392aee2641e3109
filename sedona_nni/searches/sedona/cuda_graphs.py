"""The kernels of a step, launched by Python once, and after that by a GPU all at once.

A relaxed step is thousands of small kernels, and a GPU is done with each sooner than Python has
launched the next. A CUDA graph is a record of such launches, with all addresses in them. What is
recorded has to be a function of tensors that nobody looks at meanwhile, as `InnerProblem.launch`
asks for: its inputs are copied to where those of the record were, its kernels run, and its results
are copied from where they always are.

Random numbers are drawn anew each time, from where torch's generator for the device is. Records of
one `Graphs` share their memory, as they never run at the same time; it is kept for as long as they
are.
Source: torch's documentation of CUDA graphs; what is recorded is ours.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from sedona_nni.errors import InputError

__all__ = ["Graphs"]

_WARM_UP = 3  # what kernels set up when they are first used must not be in the record

Results = TypeVar("Results", bound=tuple[Tensor, ...])


class Graphs:
    """Launches work on tensors by CUDA graphs, which it records when work is new.

    Work is new if it is another function, or inputs are of other shapes, or constants others.

    Args:
        device: The GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._records: dict[Any, tuple[list[Any], tuple[Tensor, ...], Callable[[], None]]] = {}

    def __call__(self, work: Callable[..., Results], *inputs: Any) -> Results:
        """Return what ``work(*inputs)`` would.

        Args:
            work: Depends on its inputs, on tensors that stay where they are, and on torch's
                generator alone.
            inputs: Tensors on the device, and constants.

        Raises:
            InputError: if work cannot be recorded.
        """
        key = work, *(_kind(each) for each in inputs)
        if key not in self._records:
            own = [each.clone() if isinstance(each, Tensor) else each for each in inputs]
            self._records[key] = own, *self.record(functools.partial(work, *own))
        own, results, replay = self._records[key]
        for mine, given in zip(own, inputs, strict=True):
            if isinstance(mine, Tensor):
                mine.copy_(given)
        replay()
        return cast(Results, tuple(result.clone() for result in results))

    def record(
        self, work: Callable[[], tuple[Tensor, ...]]
    ) -> tuple[tuple[Tensor, ...], Callable[[], None]]:
        """Return the tensors where work's results will be, and what computes them.

        Raises:
            InputError: if work waits for the GPU, for example to look at a number.
        """
        with torch.cuda.device(self._device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.random.fork_rng([self._device]), torch.cuda.stream(stream):
                for _ in range(_WARM_UP):
                    work()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, pool=self._pool, stream=stream):
                    results = work()
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                reason = str(error).partition("\n")[0]
                raise InputError(
                    f"search.cuda_graphs: a step of this backbone cannot be recorded ({reason}); "
                    "leave the option out"
                ) from error
        return results, graph.replay

    @functools.cached_property
    def _pool(self) -> Any:
        return torch.cuda.graph_pool_handle()


def _kind(each: Any) -> Any:
    return (each.shape, each.stride(), each.dtype) if isinstance(each, Tensor) else each
