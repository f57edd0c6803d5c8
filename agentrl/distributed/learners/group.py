"""How the ranks of a learner find each other on this machine: a process group of `torch.distributed`.

Ranks talk over the loopback interface, without authentication and in pickles: it does not protect against other users
of the machine.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import _set_pg_timeout

from agentrl.distributed.learners.calls import Join

_HOST = "127.0.0.1"
_MEET_S, _APART_S = 120.0, 24 * 3600.0
"""Longest time in which all ranks come, and longest time that one waits for another in an exchange."""


def interface() -> dict[str, str]:
    """The variable by which gloo stays on this machine, where the user has not set it."""
    name = "GLOO_SOCKET_IFNAME"
    return {name: os.environ.get(name, "lo0" if sys.platform == "darwin" else "lo")}


def backend_of(device: torch.device) -> str:
    """The backends for tensors of a device, and for what ranks pickle."""
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


def meeting_place(size: int) -> TCPStore:
    """Where the ranks will look for each other; rank 0 opens it."""
    meet = timedelta(seconds=_MEET_S)
    return TCPStore(_HOST, 0, size, is_master=True, timeout=meet, wait_for_workers=False)


def join_group(join: Join, store: TCPStore | None = None) -> None:
    """Make the process group, which is the default one of this process.

    Args: store: of rank 0, which opened it.
    """
    meet = timedelta(seconds=_MEET_S)
    store = store or TCPStore(_HOST, join.port, join.size, is_master=False, timeout=meet)
    with _variables(interface()):
        dist.init_process_group(join.backend, store=store, rank=join.rank, world_size=join.size, timeout=meet)
    _set_pg_timeout(timedelta(seconds=_APART_S))


@contextmanager
def _variables(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
