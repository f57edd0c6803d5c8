"""`agentrl serve-model` as a program: benchmarks against it, Ctrl-C, addresses that are refused."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from agentrl.bench.evaluate import EvalResult, evaluate
from agentrl.cli import main
from agentrl.policy.base import Policy, SamplingParams
from agentrl.policy.chat import ChatPolicy
from agentrl.policy.local import LocalPolicy
from tests.serving.conftest import ENV, Lamp
from tests.serving.own_process import serving

GREEDY = SamplingParams(temperature=0.0, max_tokens=40)


@pytest.fixture
def served(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own, and its URL."""
    with serving(["serve-model", str(folder)]) as running:
        yield running


def played(policy: Policy) -> list[tuple[str, bool, list[str]]]:
    result: EvalResult = evaluate(policy, ENV, Lamp.tasks.split("eval"))
    return [(t.task.id, t.success, [turn.action.text for turn in t.turns]) for t in result.trajectories]


def test_the_served_model_plays_as_the_model_itself_and_ctrl_c_is_clean(
    folder: Path, served: tuple[subprocess.Popen[str], str]
) -> None:
    process, url = served
    here = played(LocalPolicy.from_folder(folder, max_context=256, sampling=GREEDY))
    there = played(ChatPolicy("lamp", base_url=url, sampling=GREEDY))
    assert there == here
    assert len({tuple(said) for _, success, said in here if success}) > 1  # so that it says something
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert "Traceback" not in err
    assert err.rstrip().endswith("Stopped")


def test_ctrl_c_ends_answers_in_progress_too(served: tuple[subprocess.Popen[str], str]) -> None:
    process, url = served
    asked = {"model": "lamp", "messages": [{"role": "user", "content": "x"}], "temperature": 2, "max_tokens": 200}
    with httpx.stream("POST", f"{url}/chat/completions", json={**asked, "stream": True}, timeout=60) as answer:
        lines = answer.iter_lines()
        next(lines)
        process.send_signal(signal.SIGINT)
        for _ in lines:
            pass
    process.communicate(timeout=60)
    assert process.returncode == 0


def serve(*words: object) -> str:
    result = CliRunner().invoke(main, ["serve-model", *map(str, words)])
    assert result.exit_code == 1
    return result.stderr


def test_addresses_that_cannot_be_used_are_refused(
    folder: Path, served: tuple[subprocess.Popen[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = served[1].rpartition(":")[2].removesuffix("/v1")
    assert "choose another --port" in serve(folder, "--port", port)
    monkeypatch.delenv("AGENTRL_SERVE_KEY", raising=False)
    assert "0.0.0.0 can be reached from other machines: set a key" in serve(folder, "--host", "0.0.0.0")
    assert "is not a folder" in serve(folder / "absent")
