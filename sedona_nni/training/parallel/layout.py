"""Which ranks hold which block, and which rows of a batch each of them has.

Block k has n_k ranks, numbered block by block. Of a batch of B images its i-th rank, from 0, has
the rows i B / n_k to (i+1) B / n_k. So a rank hears from those ranks of the block below whose rows
overlap with its own, and sends to those above.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

__all__ = ["Layout"]


@dataclass(frozen=True)
class Layout:
    """How a training is divided.

    Attributes:
        replicas: n_k, the number of ranks of each block.

    Examples:
        >>> from sedona_nni.training.parallel.layout import Layout
        >>> layout = Layout((1, 2))
        >>> layout.num_ranks, layout.block(2), layout.ranks(1)
        (3, 1, range(1, 3))
        >>> layout.rows(2, 8), layout.overlaps(0, 1, 8)
        (range(4, 8), {1: range(0, 4), 2: range(4, 8)})
    """

    replicas: tuple[int, ...]

    @property
    def num_blocks(self) -> int:
        """K."""
        return len(self.replicas)

    @property
    def num_ranks(self) -> int:
        """How many processes there are."""
        return sum(self.replicas)

    def ranks(self, block: int) -> range:
        """Return the ranks of a block, counted from 0."""
        starts = [0, *itertools.accumulate(self.replicas)]
        return range(starts[block], starts[block + 1])

    def block(self, rank: int) -> int:
        """Return the block that a rank holds."""
        return next(block for block in range(self.num_blocks) if rank in self.ranks(block))

    def rows(self, rank: int, size: int) -> range:
        """Return a rank's rows of a batch of ``size`` images."""
        own = self.ranks(self.block(rank))
        place, count = rank - own.start, len(own)
        return range(place * size // count, (place + 1) * size // count)

    def overlaps(self, rank: int, block: int, size: int) -> dict[int, range]:
        """Return which of a rank's rows each rank of another block has, if it has any."""
        own = self.rows(rank, size)
        found = {}
        for other in self.ranks(block):
            theirs = self.rows(other, size)
            common = range(max(own.start, theirs.start), min(own.stop, theirs.stop))
            if common:
                found[other] = common
        return found

    def in_words(self, rank: int) -> str:
        """Return what messages call a rank, e.g. ``"rank 1 (block 2 of 4)"``."""
        block = self.block(rank)
        words = f"rank {rank} (block {block + 1} of {self.num_blocks}"
        count = self.replicas[block]
        place = rank - self.ranks(block).start + 1
        return f"{words})" if count == 1 else f"{words}, replica {place} of {count})"
