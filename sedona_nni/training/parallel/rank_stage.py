"""What a rank hands on: features to the block above, errors down, numbers to all.

Features travel while the block computes: the next batch's are received into memory of their own,
and at most two batches are on their way up. A sender that is ahead waits for the receiver.

A message is one or several tensors, (B, ...) each. The first one of a pass over images is preceded
by the formats of its tensors, see `sedona_nni.training.parallel.wire_format`. What is read as
numbers travels in main memory, so that no GPU is waited for.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sedona_nni.decouplings.decoupled import Block, DecoupledNetwork
from sedona_nni.decouplings.memory import BATCHES_UNDER_WAY
from sedona_nni.errors import CircumstanceError, InputError
from sedona_nni.files import read_json, read_tensors, write_atomically, write_json
from sedona_nni.training.parallel.feed import Arrival, Arrivals, Feed
from sedona_nni.training.parallel.layout import Layout
from sedona_nni.training.parallel.wire_format import FORMAT_NUMBERS, WireFormat
from sedona_nni.training.stage import CHECKPOINT_FILE, CHECKPOINTS, Stage

__all__ = ["LostRank", "RankStage"]

_MANIFEST = "manifest.json"
_FORMAT = "sedona-nni/parallel-checkpoint/1"
_MOST_TENSORS = 64


class LostRank(CircumstanceError):
    """Another rank is gone: a connection to it was closed, or it never came.

    Without a message it is not known which.
    """


class RankStage(Stage):
    """One block of a network, in a process of its own.

    Attributes:
        layout: How the training is divided.
        rank: Which of the processes this is.
        device: Where its block is.
    """

    def __init__(
        self,
        layout: Layout,
        rank: int,
        device: torch.device,
        *,
        wire: torch.dtype = torch.float32,
        leads_host: bool = True,
    ) -> None:
        """Join the others; the default process group is there already.

        Args:
            layout: How the training is divided.
            rank: Which of the processes this is.
            device: Where its block is.
            wire: What float32 travels in.
            leads_host: Whether this is the first rank on its host.
        """
        super().__init__(layout.num_blocks, layout.block(rank))
        self.replica = rank - layout.ranks(self.first).start
        self.layout = layout
        self.rank = rank
        self.device = device
        self._bytes_sent = 0
        self._wire = wire
        self._leads_host = leads_host
        self._sizes: Iterator[int] = iter(())  # of the batches that are still to be received
        self._sizes_up: Iterator[int] = iter(())  # and sent
        self._coming: _Coming | None = None
        self._formats: list[WireFormat] | None = None  # of what comes, and once more of what goes
        self._is_first_sent = True
        self._features_up: deque[list[_Sent]] = deque()
        self._errors_down: deque[list[_Sent]] = deque()
        self._control = _group([*range(layout.num_ranks)], "gloo")
        # Their own: nccl ignores tags, and has both ends do what is in a group in the same order
        self._errors = _group([*range(layout.num_ranks)], None)
        groups = [_group([*layout.ranks(block)], None) for block in range(self.num_blocks)]
        self._feeding = _group([*range(layout.num_ranks)], "gloo")
        self._feed: Feed | None = None
        self._arrivals: Arrivals | None = None
        self._replicas = groups[self.first] if layout.replicas[self.first] > 1 else None

    @property
    def tells(self) -> bool:
        """See `Stage.tells`."""
        return self.rank == 0

    @property
    def bytes_sent(self) -> int:
        """What other ranks were sent: features and errors."""
        return self._bytes_sent + (0 if self._feed is None else self._feed.bytes_sent)

    def rows(self, batch: Tensor) -> Tensor:
        """See `Stage.rows`."""
        rows = self.layout.rows(self.rank, len(batch))
        return batch[rows.start : rows.stop]

    def shared(self, block: Block) -> Block:
        """See `Stage.shared`: gradients become the mean over the block's replicas."""
        if self._replicas is None:
            return block
        return cast(Block, _Replicated(block, self._replicas))

    def merge(self, network: DecoupledNetwork) -> None:
        """See `Stage.merge`."""
        if self._replicas is None:
            return
        with torch.no_grad():
            for buffer in network.buffers():
                if buffer.is_floating_point():
                    buffer /= self.layout.replicas[self.first]
                    dist.all_reduce(buffer, group=self._replicas)

    def open(self, sizes: Sequence[int]) -> None:
        """See `Stage.open`."""
        self._sizes, self._sizes_up = iter(sizes), iter(sizes)
        self._coming = None
        self._is_first_sent = True

    def up_to(self, num_blocks: int) -> RankStage:
        """See `Stage.up_to`."""
        partial = copy.copy(self)
        partial.num_blocks = num_blocks
        return partial

    def receive(self, images: Tensor) -> tuple[Tensor, ...]:
        """See `Stage.receive`."""
        if self.first == 0:
            return (images,)
        if self._coming is None:
            size = next(self._sizes)
            self._formats = self._receive_formats(size)
            self._coming = self._post(size)
        coming = self._coming
        following = next(self._sizes, None)
        self._coming = None if following is None else self._post(following)
        for work, source in coming.works:
            self._wait(work, source)
        formats = cast(list[WireFormat], self._formats)
        return tuple(
            form.unpacked(memory) for form, memory in zip(formats, coming.memory, strict=True)
        )

    def _post(self, size: int) -> _Coming:
        """Begin to receive a batch, each part of the rows from the rank that has them."""
        own = self.layout.rows(self.rank, size)
        formats = cast(list[WireFormat], self._formats)
        memory = [form.empty(len(own), self.device) for form in formats]
        works = []
        for source, rows in self.layout.overlaps(self.rank, self.first - 1, size).items():
            for each in memory:
                part = each[rows.start - own.start : rows.stop - own.start]
                works.append((self._begin(dist.irecv, part, source), source))
        return _Coming(memory, works)

    def _receive_formats(self, size: int) -> list[WireFormat]:
        found: list[WireFormat] = []
        for source in self.layout.overlaps(self.rank, self.first - 1, size):
            numbers = torch.empty(1 + _MOST_TENSORS * FORMAT_NUMBERS, dtype=torch.int64)
            self._wait(self._begin(dist.irecv, numbers, source), source)
            count, *rest = numbers.tolist()
            found = [
                WireFormat.read(rest[place * FORMAT_NUMBERS : (place + 1) * FORMAT_NUMBERS])
                for place in range(count)
            ]
        return found

    def send(self, *tensors: Tensor) -> None:
        """See `Stage.send`."""
        if self.first + 1 >= self.num_blocks:
            return
        size = next(self._sizes_up)
        start = self.layout.rows(self.rank, size).start
        formats = [WireFormat.of(tensor, self._wire) for tensor in tensors]
        packed = [form.packed(tensor) for form, tensor in zip(formats, tensors, strict=True)]
        works = []
        for target, rows in self.layout.overlaps(self.rank, self.first + 1, size).items():
            if self._is_first_sent:
                flat = [number for form in formats for number in form.numbers()]
                padding = [0] * (_MOST_TENSORS * FORMAT_NUMBERS - len(flat))
                works.append(self._sent(torch.tensor([len(formats), *flat, *padding]), target))
            for each in packed:
                part = each[rows.start - start : rows.stop - start]
                works.append(self._sent(part, target))
        self._is_first_sent = False
        self._features_up.append(works)
        self._let_arrive(self._features_up)

    def receive_error(self) -> Tensor:
        """See `Stage.receive_error`."""
        source = self.layout.ranks(self.first + 1).start
        header = torch.empty(1 + FORMAT_NUMBERS, dtype=torch.int64)
        self._wait(self._begin(dist.irecv, header, source, self._errors), source)
        size, *numbers = header.tolist()
        form = WireFormat.read(numbers)
        memory = form.empty(size, self.device)
        self._wait(self._begin(dist.irecv, memory, source, self._errors), source)
        return form.unpacked(memory)

    def send_error(self, error: Tensor) -> None:
        """See `Stage.send_error`; errors travel as they are."""
        target = self.layout.ranks(self.first - 1).start
        form = WireFormat.of(error, error.dtype)
        header = torch.tensor([len(error), *form.numbers()])
        works = [self._sent(each, target, self._errors) for each in (header, form.packed(error))]
        self._errors_down.append(works)
        self._let_arrive(self._errors_down)

    def feed(self, steps: int, features: Tensor, labels: Tensor) -> None:
        """See `Stage.feed`."""
        target = self.layout.ranks(self.first + 1).start
        if self._feed is None:
            self._feed = Feed(self._feeding, target, self._wire)
        try:
            self._feed.put(Arrival(steps, features, labels))
        except RuntimeError as error:
            self._lost(target, error)

    def arrivals(self, most: int, *, wait: bool) -> list[Arrival]:
        """See `Stage.arrivals`."""
        source = self.layout.ranks(self.first - 1).start
        if self._arrivals is None:
            self._arrivals = Arrivals(self._feeding, source, most)
        try:
            found = self._arrivals.take(wait=wait)
        except RuntimeError as error:
            self._lost(source, error)
        return [
            Arrival(steps, features.to(self.device), labels.to(self.device))
            for steps, features, labels in found
        ]

    def _begin(
        self, start: Any, tensor: Tensor, peer: int, group: dist.ProcessGroup | None = None
    ) -> dist.Work:
        try:
            return cast(dist.Work, start(tensor, peer, group=group))
        except RuntimeError as error:
            self._lost(peer, error)

    def _sent(self, tensor: Tensor, target: int, group: dist.ProcessGroup | None = None) -> _Sent:
        self._bytes_sent += tensor.nbytes
        # The tensor is kept: its memory must not be used for anything else before it has left
        return _Sent(self._begin(dist.isend, tensor, target, group), tensor, target)

    def _let_arrive(self, messages: deque[list[_Sent]]) -> None:
        """Wait until few messages are on their way."""
        while len(messages) > BATCHES_UNDER_WAY:
            for work, _, target in messages.popleft():
                self._wait(work, target)

    def _wait(self, work: dist.Work, peer: int) -> None:
        try:
            work.wait()
        except RuntimeError as error:  # of gloo's connections; else a defect, which it names
            self._lost(peer, error)

    def _lost(self, peer: int, error: RuntimeError) -> NoReturn:
        raise LostRank(f"{self.layout.in_words(peer)} is gone") from error

    def exchange(self, value: Any) -> list[Any]:
        """See `Stage.exchange`."""
        own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.layout.num_ranks)]
        try:
            dist.all_gather(sizes, torch.tensor([len(own)]), group=self._control)
            longest = max(int(size) for size in sizes)
            texts = [torch.zeros(longest, dtype=torch.uint8) for _ in sizes]
            padded = torch.zeros(longest, dtype=torch.uint8)
            padded[: len(own)] = own
            dist.all_gather(texts, padded, group=self._control)
        except RuntimeError as error:
            raise LostRank from error  # gloo does not say which
        return [
            json.loads(bytes(text[: int(size)].tolist()))
            for text, size in zip(texts, sizes, strict=True)
        ]

    def mean_by_block(self, values: Sequence[Sequence[float]]) -> list[float]:
        """See `Stage.mean_by_block`."""
        blocks = [self.layout.ranks(block) for block in range(self.layout.num_blocks)]
        return [sum(values[rank][0] for rank in ranks) / len(ranks) for ranks in blocks]

    def load(self, directory: Path) -> tuple[Path, dict[str, Any]] | None:
        """See `Stage.load`: the last one that all ranks have.

        Raises:
            InputError: if a rank has none where the others do, or another number of ranks made it.
        """
        folder = directory / CHECKPOINTS
        if (directory / CHECKPOINT_FILE).exists():
            raise InputError(
                f"directory: {directory / CHECKPOINT_FILE} was made by one process; go on as it "
                "was begun, or remove it to start again"
            )
        epoch = self._manifest_epoch(folder)
        epochs = self.exchange(epoch)
        common = min(epochs)
        if max(epochs) > common + 1:
            behind = self.layout.in_words(epochs.index(common))
            raise InputError(
                f"directory: {behind} has the checkpoint of epoch {common}, where another rank has "
                f"that of epoch {max(epochs)}; their folders are not of the same training"
            )
        if common == 0:
            return None
        path = folder / self._name(common)
        return path, read_tensors(path)

    def _manifest_epoch(self, folder: Path) -> int:
        """Return the epoch of the last checkpoint in a folder, 0 if there is none."""
        path = folder / _MANIFEST
        if not path.exists():
            return 0
        manifest = read_json(path)
        if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
            raise InputError.rule(str(path), f"must be of the format {_FORMAT}", manifest)
        if manifest.get("replicas") != [*self.layout.replicas]:
            rule = f"must have been written by as many ranks, {[*self.layout.replicas]} by block"
            raise InputError.rule(str(path), rule, manifest.get("replicas"))
        return int(manifest["epoch"])

    def _name(self, epoch: int) -> str:
        return f"epoch-{epoch}.rank-{self.rank}.pt"

    def save(self, directory: Path, epoch: int, state: Mapping[str, Any]) -> None:
        """See `Stage.save`.

        Every rank writes a file; when all have, the manifest names their epoch, and only when it
        does everywhere are the former ones removed. So whatever happens in between, there is an
        epoch of which all files are whole.
        """
        folder = directory / CHECKPOINTS
        path = folder / self._name(epoch)
        write_atomically(path, lambda temporary: torch.save(state, temporary))
        self.exchange(epoch)
        if self._leads_host:
            manifest = {"format": _FORMAT, "epoch": epoch, "replicas": [*self.layout.replicas]}
            write_json(folder / _MANIFEST, manifest)
        self.exchange(epoch)
        for other in folder.glob(f"epoch-*.rank-{self.rank}.pt"):
            if other != path:
                other.unlink()

    def gather_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """See `Stage.gather_weights`; rank 0 has them."""
        named = {
            name.replace("blocks.0.", f"blocks.{self.first}.", 1): tensor.cpu().contiguous()
            for name, tensor in weights.items()
        }
        described = {
            name: [str(tensor.dtype).removeprefix("torch."), [*tensor.shape]]
            for name, tensor in named.items()
        }
        of_ranks = self.exchange(described)
        leaders = [self.layout.ranks(block).start for block in range(self.layout.num_blocks)]
        whole: dict[str, Tensor] = {}
        for leader in leaders:
            for name, (dtype, shape) in of_ranks[leader].items():
                if self.rank == leader:
                    tensor = named[name]
                    whole[name] = tensor
                elif self.rank == 0:
                    tensor = whole[name] = torch.empty(shape, dtype=getattr(torch, dtype))
                else:
                    continue
                if leader != 0:
                    self._carry(tensor, leader)
        return whole if self.rank == 0 else None

    def _carry(self, tensor: Tensor, leader: int) -> None:
        """Send a tensor to rank 0, or receive it there."""
        try:
            if self.rank == 0:
                dist.recv(tensor, leader, group=self._control)
            else:
                dist.send(tensor, 0, group=self._control)
        except RuntimeError as error:
            raise LostRank from error  # gloo does not say which


def _group(ranks: list[int], backend: str | None) -> dist.ProcessGroup:
    """Return a group of ranks; all ranks call this, also those that are not in it."""
    return cast(dist.ProcessGroup, dist.new_group(ranks, backend=backend))


class _Sent(NamedTuple):
    """A part of a message on its way from here."""

    work: dist.Work
    tensor: Tensor
    target: int


@dataclass(frozen=True)
class _Coming:
    """A message on its way here.

    Attributes:
        memory: Where its tensors are put.
        works: What has to end first, and from which rank it comes.
    """

    memory: list[Tensor]
    works: list[tuple[dist.Work, int]]


class _Replicated(nn.Module):
    """A block of which other ranks have replicas.

    Its gradients become the mean over all, each of which learns from its rows of the batch.
    """

    def __init__(self, block: Block, group: dist.ProcessGroup) -> None:
        super().__init__()
        self.block = block
        # Of 1x1 convolutions, whose weights lie in memory the same in either layout
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        with warnings.catch_warnings():
            # Its successor is not in older versions of torch
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            # Batch norms' statistics are merged at the end of an epoch
            self.averaging = DistributedDataParallel(
                block, process_group=group, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def forward(self, features: Tensor, beside: None = None) -> Tensor:
        out: Tensor = self.averaging(features)
        return out

    def beside(self, *unused: Any) -> None:
        """Nothing: cuts of blocks in parallel are plain."""

    def local_loss(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        return self.block.local_loss(*arguments)
