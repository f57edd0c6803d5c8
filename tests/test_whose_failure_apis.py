"""Whose failure is it, behind the Responses API and the Messages API? As tests/test_whose_failure.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentrl.policy.by_name import resolve
from agentrl.trajectory import Trajectory
from tests.policy.remote.wire_bots import Call, error, reply
from tests.test_whose_failure import (
    CUT_OFF,
    FAILED,
    NETWORK,
    READ,
    SERVER,
    Cause,
    Talks,
    lands,
    poisoned,
    raising,
    second_of,
)

APIS = {"responses": "Responses API", "anthropic": "Messages API"}
Answer = Callable[[], httpx.Response]


def served(kind: str, lands: str, answer: Answer, *, always: bool = False) -> Cause:
    """A server that answers so once the model has spoken in the second episode, or, if `always`, from then on."""

    def speak(calls: bool) -> httpx.Response:
        made: Sequence[Call] = [("call_1x", "use", {"word": "poison"})] if calls else []
        return httpx.Response(200, json=reply(kind, "" if calls else "Bye.", made))

    async def play() -> Trajectory:
        client = poisoned(answer, speak, b"not valid JSON", always=always)
        chat = {"client": client, "max_retries": 1, "max_backoff_s": 0.001}
        return await second_of(Talks, resolve(f"{kind}:bot", base_url="http://server/v1", chat=chat))

    return Cause(lands, play)


def turn(kind: str, lands: str, text: str = "Well", *, always: bool = False, **more: Any) -> Cause:
    return served(kind, lands, lambda: httpx.Response(200, json=reply(kind, text, **more)), always=always)


def failed(kind: str, lands: str, status: int, message: str, code: str, *, always: bool = False) -> Cause:
    return served(kind, lands, lambda: httpx.Response(status, json=error(kind, message, code)), always=always)


def both(kind: str) -> dict[str, Cause]:
    """Causes that both APIs have."""
    busy = "rate_limit_exceeded" if kind == "responses" else "rate_limit_error"
    broken = [("call_2x", "use", '{"word": "a')]
    gone = raising(lambda: httpx.ConnectError("refused"))
    cut = {"responses": "max_output_tokens", "anthropic": "max_tokens"}[kind]
    filtered = {"responses": "content_filter", "anthropic": "refusal"}[kind]
    return {
        "arguments are no JSON": turn(kind, READ, "", calls=broken),
        f"a turn ends by {cut}": turn(kind, CUT_OFF, finish=cut),
        f"a turn ends by {filtered}": turn(kind, FAILED, finish=filtered),
        "a reason that nobody knows": turn(kind, SERVER, finish="something_new", always=True),
        "400 on what the model said": failed(kind, FAILED, 400, "Invalid name of a tool", "invalid_request_error"),
        "400 on everything": failed(kind, SERVER, 400, "Invalid request", "invalid_request_error", always=True),
        "500 on what the model said": failed(kind, FAILED, 500, "Internal error", "api_error"),
        "500 on everything": failed(kind, SERVER, 500, "Internal error", "api_error", always=True),
        "429 on everything": failed(kind, SERVER, 429, "Too many requests", busy, always=True),
        "half a reply": served(kind, SERVER, lambda: httpx.Response(200, text='{"id": "r1", "out'), always=True),
        "no connection": served(kind, NETWORK, gone, always=True),
    }


def ended(code: str) -> dict[str, Any]:
    return {"status": "failed", "output": [], "error": {"code": code, "message": "It failed."}}


OWN: dict[str, dict[str, Cause]] = {
    "responses": {
        "context_length_exceeded": failed("responses", CUT_OFF, 400, "Too long", "context_length_exceeded"),
        "a response that failed by bio_policy": turn("responses", FAILED, **ended("bio_policy")),
        "a response that failed by server_error, once": turn("responses", FAILED, **ended("server_error")),
        "responses that all fail by server_error": turn("responses", SERVER, always=True, **ended("server_error")),
    },
    "anthropic": {
        "a prompt is too long, by its numbers": failed(
            "anthropic", CUT_OFF, 400, "prompt is too long: 210000 tokens > 200000 maximum", "invalid_request_error"
        ),
        "request_too_large": failed("anthropic", CUT_OFF, 413, "Request exceeds the maximum", "request_too_large"),
        "a turn ends by model_context_window_exceeded": turn(
            "anthropic", CUT_OFF, finish="model_context_window_exceeded"
        ),
        "output blocked by a filter": failed(
            "anthropic", FAILED, 400, "Output blocked by content filtering policy", "invalid_request_error"
        ),
        "overloaded": failed("anthropic", SERVER, 529, "Overloaded", "overloaded_error", always=True),
    },
}
CAUSES = {f"{APIS[kind]}: {name}": cause for kind in APIS for name, cause in {**both(kind), **OWN[kind]}.items()}


@pytest.mark.parametrize("name", CAUSES)
async def test_a_cause_lands_in_its_column(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(variable, "sk-a-key-of-these-tests")
    trajectory = await CAUSES[name].play()
    assert lands(trajectory) == CAUSES[name].lands, (trajectory.ending, [t.next_observation for t in trajectory.turns])
    assert (trajectory.reward, trajectory.success) == (0.0, False)


def test_the_page_lists_every_cause_in_its_column() -> None:
    page = (Path(__file__).parent.parent / "docs" / "faults.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", page.partition("## Causes")[2], re.M))
    assert {name: rows.get(name) for name in CAUSES} == {name: cause.lands for name, cause in CAUSES.items()}
