"""The model's own name, the latency and the tokens of a server's replies, in results and tables."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from agentrl.bench.runner import run_bench
from agentrl.bench.views.table import render
from tests.bench.toys import Adder
from tests.policy.remote.test_dialects import Server
from tests.policy.remote.wire_bots import KINDS, SERVED


class Renamed(Server):
    """A server whose model is replaced after the first answer."""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = super().__call__(request).json()
        return httpx.Response(200, json=body if len(self.requests) == 1 else {**body, "model": "bot-2026-12-01"})


def shown(result: object) -> str:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(result))  # type: ignore[arg-type]
    return console.export_text()


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_names_the_model_that_answered(kind: str, tmp_path: Path) -> None:
    server = Server(kind)
    result = run_bench(Adder, server.policy(), out=tmp_path / "run", references=False)
    assert result.score.success.mean == 1
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["served_models"] == {SERVED: 16}
    effort = summary["effort"]
    assert (effort["prompt_tokens"], effort["cached_tokens"], effort["reasoning_tokens"]) == (22, 8, 4)
    assert 0 <= effort["latency_s"] <= effort["policy_s"]
    assert f"served model: {SERVED}" in shown(result)
    # An earlier call's answers count too.
    again = run_bench(Adder, server.policy(), out=tmp_path / "run", references=False)
    assert (again.served_models, len(server.requests)) == ({SERVED: 16}, 16)


def test_a_model_that_changed_is_said() -> None:
    result = run_bench(Adder, Renamed("openai").policy(), references=False, num_tasks=1)
    assert result.served_models == {SERVED: 1, "bot-2026-12-01": 1}
    assert "several models, so this is the score of a mixture" in " ".join(shown(result).split())
