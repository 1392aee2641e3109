"""A plug-in for ranks that share a GPU: each says that it is a host of its own.

NCCL refuses two processes of one host on the same GPU. Between hosts it does not look, and talks
through sockets, here the loopback's. That is slow, and right: what one GPU can show of NCCL.
"""

from __future__ import annotations

import os

__all__: list[str] = []


def _be_another_host() -> None:
    os.environ["NCCL_HOSTID"] = f"rank-{os.getpid()}"
    os.environ["NCCL_SOCKET_IFNAME"] = "lo"


os.register_at_fork(after_in_child=_be_another_host)
