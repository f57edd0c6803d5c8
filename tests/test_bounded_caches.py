"""Caches are bounded in bytes: what is remembered stays small, however long the texts are."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from agentrl.messages import Message
from agentrl.policy.format import base
from agentrl.policy.format.hermes import HermesFormat
from agentrl.policy.tiny import build_tokenizer
from agentrl.rollout.judging.cache import VerdictCache
from agentrl.serving.conversations import Conversations
from agentrl.tools import tape
from agentrl.tools.cassette import Cassette

MB = 1_000_000


@contextmanager
def held_below(most: int) -> Iterator[None]:
    """What is allocated inside, and still held at the end, is less than this."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[0] < most
    finally:
        tracemalloc.stop()


def test_renderings_and_encodings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_REMEMBERED_BYTES", MB)
    form = HermesFormat(build_tokenizer(["word"]))
    with held_below(4 * MB):
        for number in range(60):
            form.render_first([Message("user", f"{number} " + "word " * 8_000)])
            form.render_more([Message("user", f"{number} " + "word " * 8_000)])
            form.render_more([Message("tool", "x")] * (number + 1))
    assert form._encoded.used_bytes <= MB
    small = [Message("user", "short")]
    assert form.render_first(small) == form.render_first(small)


@pytest.mark.parametrize("tokens", [4, 20_000])
def test_conversations_of_a_server(tokens: int) -> None:
    known = Conversations(max_bytes=MB)
    with held_below(2 * MB):
        for number in range(4_000 if tokens < 100 else 100):
            said = [Message("user", str(number)), Message("assistant", "yes")]
            known.remember(said, (), range(tokens), closed=True)
    assert known.prompt([*said, Message("user", "more")], (), _Adds())[:-1] == tuple(range(tokens))


class _Adds:
    def render_more(self, messages: list[Message], *, closed: bool) -> list[int]:
        return [0]


async def test_answers_of_a_cassette(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tape, "KEPT_BYTES", MB)
    path = tmp_path / "tape.jsonl"

    async def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text=request.url.path * 20_000)

    with held_below(16 * MB):
        recording = Cassette(path, "record", inner=httpx.MockTransport(answer))
        async with httpx.AsyncClient(transport=recording, base_url="http://server") as client:
            for number in range(200):
                await client.get(f"/{number:04}")
        replaying = Cassette(path)
        async with httpx.AsyncClient(transport=replaying, base_url="http://server") as client:
            for number in [*range(200), 0]:
                assert (await client.get(f"/{number:04}")).text == f"/{number:04}" * 20_000
    assert path.stat().st_size > 19 * MB
    assert {json.loads(line)["method"] for line in path.read_text().splitlines()} == {"GET"}


def test_verdicts_of_a_judge(tmp_path: Path) -> None:
    with VerdictCache(tmp_path / "v.sqlite", max_bytes=MB) as cache:
        for number in range(100):
            cache.put(str(number), 1.0, "because " * 5_000)
            assert cache.used_bytes <= MB
        assert cache.get("99") is not None
        assert cache.get("0") is None
