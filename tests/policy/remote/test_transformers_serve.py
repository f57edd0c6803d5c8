"""The server of `transformers` itself, where it is installed: `pip install "transformers[serving]"`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from agentrl.bench.runner import run_bench
from agentrl.policy.base import SamplingParams
from agentrl.policy.by_name import PolicySetup
from tests.bench.toys import Adder

pytest.importorskip("fastapi", reason="needs transformers[serving]")
pytest.importorskip("openai", reason="needs transformers[serving]")
pytestmark = pytest.mark.slow
_START_S = 120.0


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port: int = asked.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def url(tiny_folder: Path) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(tiny_folder)]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"], env=offline)
    try:
        deadline = time.monotonic() + _START_S
        while not is_up(port):
            assert process.poll() is None, "transformers serve ended before it answered"
            assert time.monotonic() < deadline, "transformers serve did not answer in time"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)


def is_up(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("kind", ["openai", "responses"])
def test_episodes_are_scored(kind: str, url: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    setup = PolicySetup(url, chat={"max_concurrency": 1})
    sampling = SamplingParams(temperature=0, max_tokens=16)
    result = run_bench(Adder, f"{kind}:{tiny_folder}", setup=setup, sampling=sampling, num_tasks=2, references=False)
    assert (result.score.n_episodes, result.score.n_faults) == (2, 0)
    assert dict(result.score.counts.errors) == {}
    (served,) = result.served_models
    assert served.startswith(str(tiny_folder))
    effort = result.score.effort
    assert 0 < effort.completion_tokens <= 4 * 16
    assert effort.prompt_tokens > 0
    assert effort.latency_s > 0
