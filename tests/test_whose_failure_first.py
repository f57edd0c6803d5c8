"""Whose failure is it, where a server fails in the model's first answer? As tests/test_whose_failure.py."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentrl.bench.measures.endings import Counts
from agentrl.policy.by_name import resolve
from agentrl.trajectory import Trajectory
from tests.policy.remote.wire_bots import KINDS, reply
from tests.test_whose_failure import FAILED, NETWORK, SERVER, Cause, Talks, lands, raising, second_of

FEW = 64  # tokens: a server that fails only on long answers gives shorter ones


def limit_of(body: Mapping[str, Any]) -> int:
    return int(
        next(body[name] for name in ("max_tokens", "max_output_tokens", "max_completion_tokens") if name in body)
    )


def answering(kind: str, lands: str, fail: Callable[[], Any], *, down: bool = False) -> Cause:
    """In the second episode a server fails so in the model's first answer, where it may be long; or always, if down."""

    async def play() -> Trajectory:
        is_down = False

        def handle(request: httpx.Request) -> httpx.Response:
            nonlocal is_down
            body = json.loads(request.content)
            is_second = b"task 1" in request.content
            is_down = is_down or (down and is_second)
            if is_down or (is_second and limit_of(body) > FEW):
                made: httpx.Response = fail()
                return made
            return httpx.Response(200, json=reply(kind, "Bye."))

        client = httpx.AsyncClient(transport=httpx.MockTransport(handle))
        chat = {"client": client, "max_retries": 1, "max_backoff_s": 0.001}
        return await second_of(Talks, resolve(f"{kind}:bot", base_url="http://server/v1", chat=chat))

    return Cause(lands, play)


SLOW, CUT = raising(lambda: httpx.ReadTimeout("slow")), raising(lambda: httpx.ReadError("cut"))
FAILURES: Mapping[str, tuple[Callable[[], Any], str]] = {
    "does not come to an end": (SLOW, SERVER),
    "is cut off by a proxy": (CUT, NETWORK),
    "makes the server fail": (lambda: httpx.Response(500, text="no"), SERVER),
}
BUSY: Callable[[], Any] = lambda: httpx.Response(503, text="busy")  # noqa: E731
CAUSES = {
    f"a first answer {how}": {kind: answering(kind, FAILED, fail) for kind in KINDS}
    for how, (fail, _) in FAILURES.items()
}
CAUSES |= {
    f"a first answer {how}, and so does a short one": {kind: answering(kind, who, fail, down=True) for kind in KINDS}
    for how, (fail, who) in FAILURES.items()
}
CAUSES["a server is too busy for a first answer"] = {kind: answering(kind, SERVER, BUSY) for kind in KINDS}


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in CAUSES for kind in KINDS])
async def test_a_cause_lands_in_its_column(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(variable, "sk-a-key-of-these-tests")
    trajectory = await CAUSES[name][kind].play()
    assert lands(trajectory) == CAUSES[name][kind].lands, trajectory.ending
    assert (trajectory.reward, trajectory.success) == (0.0, False)


def test_the_page_lists_every_cause_in_its_column() -> None:
    page = (Path(__file__).parent.parent / "docs" / "faults.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", page.partition("## Causes")[2], re.M))
    expected = {name: next(iter(of.values())).lands for name, of in CAUSES.items()}
    assert {name: rows.get(name) for name in CAUSES} == expected


async def test_a_server_that_fails_in_every_answer_is_warned_of() -> None:
    """Where all answers are too slow, the scores say nothing of the model."""
    name = "a first answer does not come to an end"
    trajectory = await CAUSES[name][KINDS[0]].play()
    warning = Counts.of([trajectory, trajectory]).warning
    assert warning is not None
    assert warning.startswith("all 2 scored episodes ended because a server failed on what the model said")
    assert "timeout_s" in warning
