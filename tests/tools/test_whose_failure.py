"""Whose failure is it? What a model can write into a request, and a server that fails on it or on everything."""

from __future__ import annotations

import asyncio
import json
import socket

import httpx
import pytest

from agentrl.errors import EnvFault, ToolError
from agentrl.tools.cassette import Cassette
from agentrl.tools.http_api import HttpApi, HttpSettings, Retry
from agentrl.tools.openapi import api_tools

QUICK = HttpSettings(timeout_s=2.0, retry=Retry(attempts=3, base_s=0.001))
ONCE = HttpSettings(timeout_s=0.2, retry=Retry(attempts=1))


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


JUNK = [
    *("\ud800", "a\ud83d", "\udfff" * 3, "\x00", "a\x00b", "\x01\x7f", "\n\r", "a\r\nX-Admin: 1", "\x85", "\u2028"),
    *("\u202e", "\ufeff", "\U0010ffff", "\ufffe", "é", "日本", "🫖" * 9, "%s", "%", "%zz", "%00", "%2e%2e"),
    *("'", '"', "\\", " ", " a", "a ", "\ta", "", ".", "..", "../..", "a/../b", "..\\..", "//", "/", "?", "#", "a?b#c"),
    *("@evil.test", "//evil.test/x", "http://evil.test", ":80", "{p}", "[", ";x=1", "&", "=", "+"),
    *("x" * 10**6, "é" * 40_000, "/" * 70_000, "9" * 5000),
    *(0, -1, 2**63, -(2**200), 10**4000, 10**5000, True, False, None),
    *(1e308, 5e-324, -0.0, float("nan"), float("inf"), float("-inf"), 10**400),
    *([], {}, [None], ["\ud800"], {"\ud800": 1}, {"": ""}, {"a": float("nan")}, {"a\r\n": "b"}, {"x" * 70_000: 1}),
    *(nested(50), nested(5_000), nested(200_000), list(range(20_000)), {str(i): i for i in range(5_000)}),
]
SCHEMAS = {"any": {}, "text": {"type": "string"}, "integer": {"type": "integer"}, "number": {"type": "number"}}
PLACES = ("path", "query", "query_object", "deep_object", "header", "cookie", "form", "json", "json_list", "json_body")


def document(place, schema):
    content = {"operationId": "x"}
    path = "/x"
    body = {"required": True}
    one = {"type": "object", "properties": {"p": schema}}
    match place:
        case "path":
            path = "/x/{p}"
            content["parameters"] = [{"name": "p", "in": "path", "required": True, "schema": schema}]
        case "query_object":
            extra = {"type": "object", "additionalProperties": schema}
            content["parameters"] = [{"name": "p", "in": "query", "schema": extra}]
        case "deep_object":
            extra = {"type": "object", "additionalProperties": schema}
            content["parameters"] = [{"name": "p", "in": "query", "style": "deepObject", "schema": extra}]
        case "query" | "header" | "cookie":
            content["parameters"] = [{"name": "p", "in": place, "schema": schema}]
        case "form":
            content["requestBody"] = {**body, "content": {"application/x-www-form-urlencoded": {"schema": one}}}
        case "json":
            content["requestBody"] = {**body, "content": {"application/json": {"schema": one}}}
        case "json_list":
            items = {"type": "array", "items": schema}
            content["requestBody"] = {**body, "content": {"application/json": {"schema": items}}}
        case "json_body":
            content["requestBody"] = {**body, "content": {"application/json": {"schema": schema}}}
    method = "post" if "requestBody" in content else "get"
    return {"openapi": "3.1.0", "paths": {path: {method: content}}}


async def outcome(tool, value):
    """`ok`, or the text that the model reads. Other exceptions come through."""
    name = next(iter(tool.schema["function"]["parameters"]["properties"]), "p")
    try:
        arguments = tool.validate({name: value})
    except ToolError as error:
        return str(error)
    except (ValueError, RecursionError):
        return "the value itself cannot be shown"  # what is wrong with an argument is told by `Tool.validate`
    try:
        await tool.function(**arguments)
    except ToolError as error:
        return str(error)
    return "ok"


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("place", PLACES)
async def test_whatever_a_model_writes_is_sent_or_told_to_the_model(place, schema):
    seen = []

    def answer(request):
        seen.append(request.url)
        return httpx.Response(200, json={})

    transport = httpx.MockTransport(answer)
    (tool,) = api_tools(document(place, SCHEMAS[schema]), base_url="https://api.test/v1", transport=transport)
    told = [await outcome(tool, wrapped) for value in JUNK for wrapped in (value, [value], {"k": value})]
    assert all(url.host == "api.test" and url.path.startswith("/v1/x") for url in seen)
    assert len(seen) == told.count("ok")
    assert not any("Traceback" in text for text in told)
    assert ("ok" in told) == (place != "cookie")


@pytest.mark.parametrize("place", PLACES)
async def test_a_real_connection_carries_it_or_the_model_is_told(server, place):
    """The errors of the protocol itself (h11) come only with a real connection."""
    (tool,) = api_tools(document(place, {}), base_url=server.url, settings=QUICK)
    told = [await outcome(tool, wrapped) for value in JUNK for wrapped in (value, [value], {"k": value})]
    await tool.aclose()
    assert ("ok" in told) == (place != "cookie")
    assert all(seen.path.startswith("/x") for seen in server.seen)


async def test_odd_requests_of_an_authors_own_tool():
    api = HttpApi("https://api.test", transport=httpx.MockTransport(lambda request: httpx.Response(200)))
    for path in ("/a/../admin", "/a/%2e%2e/admin", "/.", "/\x00", "/" + "x" * 70_000, "/\ud800"):
        with pytest.raises(ToolError):
            await api.request("GET", path)
    for headers in ({"X": "a\nb"}, {"X": " a"}, {"X": "é"}, {"X": "\x00"}):
        with pytest.raises(ToolError, match="X: a header takes printable ASCII"):
            await api.request("GET", "/x", headers=headers)
    for value in (float("nan"), 10**5000, nested(200_000), "\ud800", {"\ud800": 1}):
        with pytest.raises(ToolError, match="cannot be written"):
            await api.request("POST", "/x", json=value)
    for text in ("\ud800", "a\udfff"):
        with pytest.raises(ToolError, match="lone surrogate"):
            await api.request("POST", "/x", form={"p": text})
        with pytest.raises(ToolError, match="lone surrogate"):
            await api.request("GET", "/x", params=[("p", text)])


@pytest.mark.parametrize("status", [400, 403, 404, 405, 409, 413, 414, 415, 417, 422, 431, 451, 501, 505])
async def test_an_answer_that_is_about_the_request_is_read_by_the_model(server, canned, status):
    server.script = [canned(status, body=b"too long")]
    with pytest.raises(ToolError, match=f"status {status}: too long"):
        await HttpApi(server.url, settings=QUICK).request("POST", "/x")
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"a": "\\ud800"}', "application/json"),
        (b"[" * 100_000 + b"]" * 100_000, "application/json"),
        (b"9" * 5000, "application/json"),
        (b'{"a": NaN}', "application/json"),
        (b"\\ud800", "text/plain; charset=unicode_escape"),
        (b"x\xff", "text/plain; charset=idna"),
        (b"x\xff", "text/plain; charset=rot13"),
        (b"x\xff", "text/plain; charset=undefined"),
        (b"+2AA-", "text/plain; charset=utf-7"),
    ],
)
async def test_odd_answers_can_be_read_and_stored(body, kind):
    answer = httpx.Response(200, content=body, headers={"content-type": kind})
    (tool,) = api_tools(
        document("query", {}),
        base_url="https://api.test",
        transport=httpx.MockTransport(lambda request: answer),
        settings=HttpSettings(max_response_bytes=10**6),
    )
    text = await tool.function(**tool.validate({"p": 1}))
    assert json.loads(json.dumps(text).encode().decode()) == text
    assert text.encode()


async def test_a_redirect_to_no_address_is_told_to_the_model(server, canned):
    settings = HttpSettings(follow_redirects=True, retry=Retry(attempts=1))
    for target in ("http://[", "ftp://127.0.0.1/x", "http://127.0.0.1:99999999/", "/" + "x" * 60_000):
        server.script = [canned(302, headers={"Location": target}), canned(404)]
        with pytest.raises(ToolError):
            await HttpApi(server.url, settings=settings).request("GET", "/x")


# A request that the server fails on, and a server that is down.


def odd(canned, status=500):
    """A server that fails on requests with `odd` in their path or body, and answers others."""
    return lambda request: canned(status if "odd" in request.path or b"odd" in request.body else 200)


@pytest.mark.parametrize("status", [500, 502, 503, 504, 520])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_a_5xx_to_one_request_alone_is_read_by_the_model(server, canned, method, status):
    server.rest = odd(canned, status)
    api = HttpApi(server.url, settings=QUICK)
    await api.request("GET", "/items/1", shape="/items/{id}")
    with pytest.raises(
        ToolError, match=rf"failed on this request 4 times \(status {status}\), while it answers others"
    ):
        await api.request(method, "/items/odd", shape="/items/{id}")
    asked = [f"{seen.method} {seen.path}" for seen in server.seen[1:]]
    assert asked == [f"{method} /items/odd"] * 3 + ["GET /items/1", f"{method} /items/odd"]
    await api.aclose()


@pytest.mark.parametrize("status", [500, 503])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_a_5xx_to_a_post_says_whether_the_server_answers_others(server, canned, method, status):
    server.rest = odd(canned, status)
    api = HttpApi(server.url, settings=QUICK)
    with pytest.raises(EnvFault) as caught:
        await api.request(method, "/x", json={"kind": "odd"})
    assert (caught.value.at, caught.value.answers) == ("server", True)
    assert (await api.request(method, "/x", json={"kind": "usual"})).status == 200
    await api.aclose()


@pytest.mark.parametrize("down", [500, 502, 503, 504])
@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
async def test_a_server_that_is_down_is_a_fault(server, canned, method, down):
    api = HttpApi(server.url, settings=QUICK)
    await api.request("GET", "/items/1")
    server.rest = lambda request: canned(down)
    with pytest.raises(EnvFault) as caught:
        await api.request(method, "/items/odd")
    assert (caught.value.at, caught.value.answers) == ("server", False)
    server.rest = odd(canned)
    assert (await api.request(method, "/items/2")).status == 200
    await api.aclose()


async def test_a_server_that_comes_back_before_the_control_request_fails_no_episode(server, canned):
    server.script = [canned(503)] * 3
    api = HttpApi(server.url, settings=QUICK)
    assert (await api.request("GET", "/x")).status == 200
    assert [seen.path for seen in server.seen] == ["/x"] * 3 + ["/", "/x"]
    await api.aclose()


async def test_a_database_behind_the_server_that_is_down_is_a_fault(server, canned):
    """The base URL is answered without the database: that alone does not make it the model's failure."""
    server.rest = lambda request: canned(404 if request.path == "/" else 500)
    api = HttpApi(server.url, settings=QUICK)
    with pytest.raises(EnvFault) as caught:
        await api.request("GET", "/items/1")
    assert caught.value.answers is None
    server.rest = lambda request: canned(200)
    await api.request("GET", "/items/1", shape="/items/{id}")
    server.rest = lambda request: canned(404 if request.path == "/" else 500)
    with pytest.raises(EnvFault) as caught:
        await api.request("GET", "/items/2", shape="/items/{id}")
    assert caught.value.answers is False
    await api.aclose()


async def test_a_connection_that_breaks_or_hangs_says_whether_the_server_answers_others(server, canned):
    server.rest = lambda request: canned(hang_up="odd" in request.path)
    api = HttpApi(server.url, settings=QUICK)
    for method in ("GET", "POST"):
        with pytest.raises(EnvFault, match="RemoteProtocolError") as caught:
            await api.request(method, "/odd")
        assert (caught.value.at, caught.value.answers) == ("network", True)
    await api.aclose()
    server.rest = lambda request: canned(hang_up=True)
    with pytest.raises(EnvFault) as caught:
        await api.request("GET", "/odd")
    assert (caught.value.at, caught.value.answers) == ("network", False)
    await api.aclose()


async def test_a_timeout_says_whether_the_server_answers_others(server, canned):
    server.rest = lambda request: canned(body=b"x" * 20, drip_s=0.05) if "odd" in request.path else canned()
    api = HttpApi(server.url, settings=ONCE)
    with pytest.raises(EnvFault, match="TimeoutError") as caught:
        await api.request("GET", "/odd")
    assert (caught.value.at, caught.value.answers) == ("network", True)
    await api.aclose()


async def test_a_refused_connection_is_never_put_to_the_model():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    api = HttpApi(f"http://127.0.0.1:{port}", settings=QUICK)
    for method in ("GET", "POST"):
        with pytest.raises(EnvFault, match="ConnectError") as caught:
            await api.request(method, "/odd")
        assert (caught.value.at, caught.value.answers) == ("network", None)
    await api.aclose()


async def test_a_host_that_a_redirect_names_and_that_refuses_is_known_to_be_another_one(server, canned):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    server.rest = lambda request: (
        canned(302, headers={"Location": f"http://127.0.0.1:{port}/"}) if "odd" in request.path else canned()
    )
    allowed = [f"127.0.0.1:{server.port}", f"127.0.0.1:{port}"]
    settings = HttpSettings(follow_redirects=True, retry=Retry(attempts=2, base_s=0.001))
    api = HttpApi(server.url, allow_hosts=allowed, settings=settings)
    with pytest.raises(EnvFault, match="ConnectError") as caught:
        await api.request("GET", "/go?to=odd")
    assert (caught.value.at, caught.value.answers) == ("network", True)
    await api.aclose()


async def test_a_server_that_asks_for_a_pause_is_not_asked_for_more(server, canned):
    server.rest = lambda request: canned(429)
    with pytest.raises(EnvFault) as caught:
        await HttpApi(server.url, settings=QUICK).request("GET", "/x")
    assert (caught.value.at, caught.value.answers) == ("server", None)
    assert len(server.seen) == 3


async def test_many_failures_at_once_share_one_control_request(server, canned):
    server.rest = lambda request: canned(500 if request.method == "POST" else 200)
    api = HttpApi(server.url, settings=QUICK)
    results = await asyncio.gather(*(api.request("POST", f"/{i}") for i in range(40)), return_exceptions=True)
    assert all(isinstance(result, EnvFault) and result.answers for result in results)
    assert sum(seen.method == "GET" for seen in server.seen) < 40
    await api.aclose()


@pytest.mark.parametrize("mode", ["record", "auto"])
async def test_a_control_request_is_neither_recorded_nor_answered_from_a_tape(server, canned, tmp_path, mode):
    tape = tmp_path / "tape.jsonl"
    api = HttpApi(server.url, settings=QUICK, transport=Cassette(tape, mode))
    await api.request("GET", "/items/1")
    server.rest = lambda request: canned(500)
    with pytest.raises(EnvFault) as caught:
        await api.request("POST", "/items/odd")
    assert caught.value.answers is False
    server.rest = odd(canned)
    with pytest.raises(EnvFault) as caught:
        await api.request("POST", "/items/odd")
    assert caught.value.answers is True
    assert len(tape.read_text().splitlines()) == 1
    await api.aclose()


async def test_a_replay_asks_no_server_and_says_what_is_not_recorded(server, tmp_path):
    tape = tmp_path / "tape.jsonl"
    (tool,) = api_tools(document("json_body", {}), base_url=server.url, transport=Cassette(tape, "record"))
    assert await outcome(tool, {"a": nested(40)}) == "ok"
    assert await outcome(tool, "usual") == "ok"
    await tool.aclose()
    (tool,) = api_tools(document("json_body", {}), base_url=server.url, transport=Cassette(tape))
    asked = len(server.seen)
    assert await outcome(tool, {"a": nested(40)}) == "ok"
    for value in ("\ud800", float("nan"), nested(200_000), 10**5000):
        assert "wrong arguments" in await outcome(tool, value)
    for value in ("other", "\x00", nested(50), "9" * 5000):
        with pytest.raises(EnvFault, match="has no answer to POST") as caught:
            await outcome(tool, value)
        assert caught.value.at == "author"
    assert len(server.seen) == asked
