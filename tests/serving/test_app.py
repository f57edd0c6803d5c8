"""The endpoint: OpenAI's forms, whole and in pieces; what is refused, and with which words; clients that go away."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
import torch

from agentrl.env import registry
from agentrl.messages import Message
from agentrl.serving.app import make_app
from agentrl.serving.chat_model import ChatModel
from tests.serving.conftest import ENV

TOOLS = [dict(schema) for schema in registry.make(ENV).tool_schemas]
ASK = {"role": "user", "content": "Lamp 3?"}


def body(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"model": "lamp", "messages": list(messages or [ASK]), "tools": TOOLS, "temperature": 0, **fields}


async def completed(client: httpx.AsyncClient, *messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    answer = await client.post("/chat/completions", json=body(*messages, **fields))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def streamed(client: httpx.AsyncClient, *messages: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    answer = await client.post("/chat/completions", json=body(*messages, stream=True, **fields))
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def joined(chunks: list[dict[str, Any]], number: int = 0) -> dict[str, Any]:
    """The message, finish reason and logprobs of one choice, put together as clients do."""
    found: dict[str, Any] = {"content": "", "tool_calls": [], "finish": None, "logprobs": []}
    for piece in (choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == number):
        found["content"] += piece["delta"].get("content") or ""
        found["tool_calls"] += piece["delta"].get("tool_calls", [])
        found["finish"] = piece["finish_reason"] or found["finish"]
        found["logprobs"] += (piece.get("logprobs") or {"content": []})["content"]
    return found


async def test_a_call_and_the_answer_to_its_result(client: httpx.AsyncClient) -> None:
    first = await completed(client)
    (choice,) = first["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    assert (call["type"], call["function"]) == ("function", {"name": "look", "arguments": '{"lamp": 3}'})
    assert first["usage"]["total_tokens"] == first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]
    result = {"role": "tool", "tool_call_id": call["id"], "content": "It is red."}
    second = await completed(client, ASK, choice["message"], result)
    (said,) = second["choices"]
    assert (said["message"]["content"], said["finish_reason"]) == ("red", "stop")
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert second["id"] != first["id"]
    assert call["id"] != (await completed(client))["choices"][0]["message"]["tool_calls"][0]["id"]


async def test_a_conversation_goes_on_with_the_ids_that_were_sampled(
    client: httpx.AsyncClient, model: ChatModel
) -> None:
    first = await completed(client, temperature=1.0, seed=4, return_token_ids=True)
    (choice,) = first["choices"]
    seen = [*first["prompt_token_ids"], *choice["token_ids"]]
    message = choice["message"]
    call = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "It is red."}
    # Clients touch the ids of calls, and how arguments are spaced; that changes nothing.
    touched = json.loads(json.dumps(message).replace(": 3}", ":3}"))
    second = await completed(client, ASK, touched, call, return_token_ids=True)
    more = model.policy.format.render_more([Message("tool", "It is red.")])
    assert second["prompt_token_ids"] == [*seen, *more]


async def test_choices_differ_and_a_seed_repeats_them(client: httpx.AsyncClient) -> None:
    hot = {"temperature": 2.0, "n": 4, "return_token_ids": True, "max_tokens": 12}
    one, same, other = [await completed(client, seed=seed, **hot) for seed in (1, 1, 2)]
    ids = [[choice["token_ids"] for choice in answer["choices"]] for answer in (one, same, other)]
    assert ids[0] == ids[1] != ids[2]
    assert len({tuple(of) for of in ids[0]}) > 1
    assert [choice["index"] for choice in one["choices"]] == [0, 1, 2, 3]
    assert one["usage"]["completion_tokens"] == sum(map(len, ids[0]))


async def test_logprobs_are_the_models_own(client: httpx.AsyncClient, model: ChatModel) -> None:
    answer = await completed(client, logprobs=True, return_token_ids=True)
    (choice,) = answer["choices"]
    prompt, sampled = answer["prompt_token_ids"], choice["token_ids"]
    with torch.no_grad():
        logits = model.policy.model(torch.tensor([[*prompt, *sampled]])).logits[0]
    expected = logits.log_softmax(-1)[range(len(prompt) - 1, len(prompt) + len(sampled) - 1), sampled]
    entries = choice["logprobs"]["content"]
    assert [entry["logprob"] for entry in entries] == pytest.approx(expected.tolist(), abs=1e-4)
    assert "".join(entry["token"] for entry in entries).startswith("<tool_call>")
    assert bytes(entries[0]["bytes"]).decode() == entries[0]["token"]


@pytest.mark.parametrize(
    "fields",
    [{}, {"tool_choice": "none"}, {"tools": None}, {"temperature": 2.0, "n": 3, "seed": 5}, {"stop": ["a", "ed"]}],
    ids=str,
)
@pytest.mark.parametrize("result", [False, True], ids=["first turn", "after a call"])
async def test_pieces_add_up_to_the_whole(client: httpx.AsyncClient, fields: dict[str, Any], result: bool) -> None:
    messages = [ASK]
    if result:
        call = (await completed(client))["choices"][0]["message"]
        messages += [call, {"role": "tool", "tool_call_id": call["tool_calls"][0]["id"], "content": "It is red."}]
    whole = await completed(client, *messages, logprobs=True, **fields)
    chunks = await streamed(client, *messages, logprobs=True, stream_options={"include_usage": True}, **fields)
    assert chunks[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    for choice in whole["choices"]:
        found = joined(chunks, choice["index"])
        message = choice["message"]
        assert found["content"] == (message["content"] or "")
        assert [c["function"] for c in found["tool_calls"]] == [c["function"] for c in message.get("tool_calls", [])]
        assert found["finish"] == choice["finish_reason"]
        assert [e["logprob"] for e in found["logprobs"]] == pytest.approx(
            [e["logprob"] for e in choice["logprobs"]["content"]], abs=1e-5
        )


async def test_text_comes_before_the_turn_has_ended(client: httpx.AsyncClient) -> None:
    chunks = await streamed(client, tools=None, temperature=2.0, seed=3, max_tokens=30)
    pieces = [c["choices"][0]["delta"].get("content") for c in chunks if c["choices"][0]["delta"].get("content")]
    assert len(pieces) > 5


async def test_a_call_is_text_where_no_call_is_allowed(client: httpx.AsyncClient) -> None:
    (choice,) = (await completed(client, tool_choice="none"))["choices"]
    assert choice["message"]["content"].startswith("<tool_call>")
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "stop"


async def test_a_call_that_is_cut_off_has_arguments_that_no_client_takes_for_json(client: httpx.AsyncClient) -> None:
    whole = await completed(client, return_token_ids=True)
    most = len(whole["choices"][0]["token_ids"]) - 4
    (choice,) = (await completed(client, max_tokens=most))["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "length"
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(call["function"]["arguments"])


async def test_a_stop_text_ends_the_turn_and_is_left_out(client: httpx.AsyncClient) -> None:
    call = (await completed(client))["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": call["tool_calls"][0]["id"], "content": "It is green."}
    (choice,) = (await completed(client, ASK, call, result, stop="ee"))["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("gr", "stop")


async def test_requests_that_wait_together_are_sampled_together(client: httpx.AsyncClient, model: ChatModel) -> None:
    rounds = 0
    step = model.policy.engine.step

    def counted() -> None:
        nonlocal rounds
        rounds += 1
        step()

    model.policy.engine.step = counted  # type: ignore[method-assign]
    alone = await completed(client)
    one = rounds
    rounds = 0
    together = await asyncio.gather(*(completed(client) for _ in range(8)))
    assert rounds < 3 * one  # eight of them in turn take 8 times as many
    function = alone["choices"][0]["message"]["tool_calls"][0]["function"]
    assert all(a["choices"][0]["message"]["tool_calls"][0]["function"] == function for a in together)


async def test_the_model_is_listed(client: httpx.AsyncClient) -> None:
    (card,) = (await client.get("/models")).json()["data"]
    assert (card["id"], card["object"], card["max_model_len"]) == ("lamp", "model", 256)
    assert (await client.get("/models/lamp")).json() == card
    assert (await client.get("/models/other")).status_code == 404


@pytest.mark.parametrize(
    ("fields", "status", "param", "code", "words"),
    [
        ({"model": "gpt"}, 404, "model", "model_not_found", "this server has 'lamp'"),
        ({"messages": []}, 400, "messages", None, "messages: "),
        ({"messages": [{"role": "robot"}]}, 400, "messages", None, r"messages[0]: message role must be"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages", None, "only text"),
        ({"messages": [ASK, {"role": "assistant", "content": "x"}]}, 400, "messages", None, "continuing it"),
        ({"messages": [ASK, {"role": "tool", "content": "x"}]}, 400, "messages", None, "no tool_call_id"),
        ({"messages": [{"role": "user", "content": "x " * 400}]}, 400, "messages", "context_length_exceeded", "256"),
        ({"temperature": -1}, 400, "temperature", None, "greater than or equal to 0"),
        ({"temperature": "1"}, 400, "temperature", None, "valid number"),
        ({"max_tokens": 0}, 400, "max_tokens", None, "greater than or equal to 1"),
        ({"n": 129}, 400, "n", None, "less than or equal to 128"),
        ({"stop": [""]}, 400, "stop", None, "not empty"),
        ({"tool_choice": "required"}, 400, "tool_choice", "unsupported", "use 'auto' or 'none'"),
        ({"tools": [{"name": "x"}]}, 400, "tools", None, "tools[0] must be"),
        ({"top_logprobs": 5, "logprobs": True}, 400, "top_logprobs", "unsupported", "top_logprobs = 5"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format", "unsupported", "is not supported"),
        ({"temprature": 1}, 400, "temprature", "unsupported", "Did you mean 'temperature'?"),
    ],
)
async def test_what_cannot_be_done_is_refused_in_openais_form(
    client: httpx.AsyncClient, fields: dict[str, Any], status: int, param: str, code: str | None, words: str
) -> None:
    answer = await client.post("/chat/completions", json={**body(), **fields})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"], error["type"]) == (
        status,
        param,
        code,
        "invalid_request_error",
    )
    assert words in error["message"]


async def test_fields_at_values_that_change_nothing_are_accepted(client: httpx.AsyncClient) -> None:
    neutral = {"frequency_penalty": 0, "response_format": {"type": "text"}, "user": "me", "parallel_tool_calls": True}
    plain, same = await completed(client), await completed(client, **neutral)
    assert [a["choices"][0]["message"]["tool_calls"][0]["function"] for a in (plain, same)] == [
        {"name": "look", "arguments": '{"lamp": 3}'}
    ] * 2


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [(b"{", "application/json", 400), (b"[]", "application/json", 400), (b"{}", "text/plain", 415), (b"{}", "", 415)],
)
async def test_bodies_that_are_no_request(client: httpx.AsyncClient, content: bytes, kind: str, status: int) -> None:
    answer = await client.post("/chat/completions", content=content, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error")


async def test_half_of_a_character_is_no_failure(client: httpx.AsyncClient) -> None:
    content = json.dumps(body({"role": "user", "content": "Lamp \ud800?"})).encode()
    answer = await client.post("/chat/completions", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 200


async def test_other_paths_say_what_there_is(client: httpx.AsyncClient) -> None:
    answer = await client.post("/completions", json={})
    assert answer.status_code == 404
    assert "POST /v1/chat/completions" in answer.json()["error"]["message"]
    assert (await client.get("/chat/completions")).status_code == 405


async def test_a_key_is_asked_for_and_foreign_names_are_refused_without_one(model: ChatModel) -> None:
    async def status(key: str, headers: dict[str, str]) -> int:
        transport = httpx.ASGITransport(make_app(model, key=key))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return (await client.get("/v1/models", headers=headers)).status_code

    assert await status("secret", {"Authorization": "Bearer secret"}) == 200
    assert await status("secret", {"Authorization": "bearer secret", "Host": "models.example"}) == 200
    assert await status("secret", {"Authorization": "Bearer other"}) == 401
    assert await status("secret", {}) == 401
    assert await status("", {"Host": "evil.example"}) == 400
    assert await status("", {}) == 200


async def test_a_full_queue_asks_to_come_back(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentrl.serving.chat_model._MOST_WAITING", 2)
    answer = await client.post("/chat/completions", json=body(n=3))
    assert (answer.status_code, answer.json()["error"]["code"], answer.headers["retry-after"]) == (
        503,
        "overloaded",
        "1",
    )


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_stops_its_sampling(model: ChatModel, stream: bool) -> None:
    app, engine = make_app(model), model.policy.engine
    content = json.dumps(body(temperature=2.0, max_tokens=200, stream=stream)).encode()
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"host", b"localhost")],
    }
    incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    incoming.put_nowait({"type": "http.request", "body": content, "more_body": False})
    sampled = 0
    step = engine.step

    def counted() -> None:
        nonlocal sampled
        sampled += 1
        step()
        if sampled == 3:
            incoming.put_nowait({"type": "http.disconnect"})

    engine.step = counted  # type: ignore[method-assign]

    async def send(message: dict[str, Any]) -> None:
        pass

    await app(scope, incoming.get, send)
    engine.step()  # drops what was cancelled
    assert engine.busy == 0
    assert 3 <= sampled < 30
