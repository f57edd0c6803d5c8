"""Sampling processes that are stopped, or killed before they are ready: each is lost soon, and nothing waits for it."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from agentrl.distributed import local
from agentrl.distributed.local import LocalWorker
from agentrl.distributed.shared import Packed
from agentrl.distributed.worker import Weights, WorkerLost
from agentrl.rollout.requests import GroupRequest
from agentrl.trajectory import Task
from tests.distributed.test_host import SETUP
from tests.distributed.test_lost import is_alive

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
LARGE = GroupRequest(Task("t", data={"text": "x" * 1_000_000}), 0, 1, group_id="g")
"""More than the buffer of a socket takes."""
SILENT, KILLED = "gave no sign of life for", "was killed by SIGKILL"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_PROCESS", "tests.distributed.stopping")


def worker_that_is(how: str) -> LocalWorker:
    return LocalWorker(3, replace(SETUP, chat_format=how, alive_s=0.25, silent_s=15.0), Packed(()), lambda: None)


@pytest.mark.parametrize(("how", "words"), [("killed", KILLED), ("stopped", SILENT)])
async def test_before_it_is_ready(how: str, words: str) -> None:
    worker = worker_that_is(f"{how} before it is ready")
    async with asyncio.timeout(120):
        with pytest.raises(WorkerLost, match=rf"sampler 3 \(process \d+\) {words}"):
            await worker.start()
        await worker.aclose()
    assert not is_alive(worker.pid)


@pytest.mark.parametrize("how", ["while it reads nothing", "in the middle of a message"])
async def test_once_it_is_ready(how: str) -> None:
    """The trainer would have to wait to send it something large, and to read the rest of a message."""
    worker = worker_that_is(f"stopped {how}")
    threads = threading.active_count()
    descriptors = len(os.listdir("/proc/self/fd"))
    async with asyncio.timeout(120):
        await worker.start()
        began = time.monotonic()
        group = worker.play(LARGE, 3, None)
        weights = Weights(4, Packed({}))
        worker.take_weights(weights)
        weights.values.close()
        assert time.monotonic() - began < 2
        with pytest.raises(WorkerLost, match=SILENT):
            await worker.until_lost()
        with pytest.raises(WorkerLost, match=SILENT):
            await group
        await worker.aclose()
        while threading.active_count() > threads or len(os.listdir("/proc/self/fd")) > descriptors:
            await asyncio.sleep(0.01)
    assert not is_alive(worker.pid)


async def test_one_that_is_stopped_when_it_shall_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_STOP_S", 0.5)
    worker = worker_that_is("stopped while it reads nothing")
    async with asyncio.timeout(120):
        await worker.start()
        group = worker.play(LARGE, 3, None)
        await worker.aclose()
        with pytest.raises(WorkerLost, match="sampler 3 was stopped"):
            await group
    assert not is_alive(worker.pid)


async def test_an_object_that_cannot_be_sent_is_refused_where_it_is_sent(tmp_path: Path) -> None:
    worker = worker_that_is("killed before it is ready")
    starting = asyncio.ensure_future(worker.start())
    await asyncio.sleep(0)
    with pytest.raises(Exception, match="lambda"):
        worker.play(replace(LARGE, task=Task("t", data={"call": lambda: None})), 3, None)
    with pytest.raises(WorkerLost):
        await starting
    await worker.aclose()
