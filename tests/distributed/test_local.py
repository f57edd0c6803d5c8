"""A sampling process that cannot be started."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from agentrl.distributed.local import LocalWorker
from agentrl.distributed.messages import Setup
from agentrl.distributed.shared import Packed
from agentrl.sampling import SamplingParams
from agentrl.trajectory import EnvRef

SETUP = Setup(EnvRef("e"), (), SamplingParams(), "chatml", 1, None, False, 1, 0, False, 1, 30, False, 5.0, 120.0)


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
async def test_a_process_that_cannot_be_started_leaves_no_descriptor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    packed = Packed(())
    worker = LocalWorker(0, SETUP, packed, lambda: None)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError) as raised:
        await worker.start()
    assert os.listdir("/proc/self/fd") == before, raised
    await worker.aclose()
    packed.close()
