"""Servers that echo secrets at odd moments, answers that are cut off, and documents without end."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import gzip
import json
import os
import threading

import httpx
import pytest

from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.errors import EnvFault, ToolError, ToolSchemaError
from agentrl.tools.cassette import Cassette
from agentrl.tools.http_api import HttpApi, HttpSettings, Retry, Session, bearer, oauth2
from agentrl.tools.openapi import api_tools
from agentrl.tools.openapi.document import load_document

SECRET = "s3cr3t/of+the client"
QUICK = HttpSettings(timeout_s=5, retry=Retry(attempts=3, base_s=0.001))
DOCUMENT = {"openapi": "3.1.0", "servers": [{"url": "http://x.test"}], "paths": {"/a": {"get": {"operationId": "a"}}}}


@pytest.fixture(autouse=True)
def names(monkeypatch):
    monkeypatch.setenv("THE_ID", "agent:1")
    monkeypatch.setenv("THE_SECRET", SECRET)


@pytest.fixture
async def oauth_api(server):
    api = HttpApi(server.url, auth=oauth2(f"{server.url}/token", "THE_ID", "THE_SECRET"), settings=QUICK)
    yield api
    await api.aclose()


@pytest.mark.parametrize("said", [SECRET, "s3cr3t%2Fof%2Bthe+client", "x" * 70 + SECRET], ids=["plain", "form", "cut"])
async def test_a_refusal_of_a_token_that_echoes_the_secret(server, canned, oauth_api, said):
    server.rest = lambda request: canned(400, body=json.dumps({"error": f"bad secret {said}"}).encode())
    with pytest.raises(EnvFault, match="refused a token") as caught:
        await oauth_api.request("GET", "/x")
    assert "s3cr" not in str(caught.value)


@pytest.mark.parametrize("life", ["1" + "0" * 400, "NaN", '"soon"', "null", "true", "1e999", "-5"])
async def test_any_life_of_a_token_is_taken(server, canned, oauth_api, life):
    token = f'{{"access_token": "abc", "expires_in": {life}}}'.encode()
    server.rest = lambda request: canned(body=token if request.path == "/token" else b"{}")
    assert (await oauth_api.request("GET", "/x")).status == 200


async def test_a_token_that_came_while_a_request_waited_is_used_and_hidden(server, canned, oauth_api):
    """A request fails and waits; meanwhile another one gets a new token. The server echoes what it was sent."""
    given = []

    def answer(request):
        if request.path == "/token":
            given.append(f"token-number-{len(given)}")
            return canned(body=json.dumps({"access_token": given[-1]}).encode())
        if len(server.seen) == 2:  # the first request with a token
            oauth_api._credentials.forget_tokens(before_s=float("inf"))
            return canned(503)
        return canned(body=json.dumps({"sent": request.headers["authorization"]}).encode())

    server.rest = answer
    reply = await oauth_api.request("GET", "/x")
    assert server.seen[-1].headers["authorization"] == f"Bearer {given[-1]}"
    assert reply.text == '{"sent": "Bearer REDACTED"}'
    assert len(given) == 2


@pytest.mark.parametrize("kept", [4, 10, len(SECRET) - 1])
async def test_a_tape_holds_no_beginning_of_a_secret_that_the_bound_runs_through(server, canned, tmp_path, kept):
    bound = 100 + 16_000
    server.rest = lambda request: canned(body=b"." * (bound - kept) + SECRET.encode() + b"." * 100)
    tape = tmp_path / "tape.jsonl"
    settings = HttpSettings(max_response_bytes=100, retry=QUICK.retry)
    api = HttpApi(server.url, auth=bearer("THE_SECRET"), settings=settings, transport=Cassette(tape, "record"))
    reply = await api.request("GET", "/x")
    await api.aclose()
    assert reply.cut_off
    assert SECRET[:4] not in tape.read_text()


async def test_a_full_disk_leaves_no_half_line(server, tmp_path, monkeypatch):
    tape = tmp_path / "tape.jsonl"
    api = HttpApi(server.url, transport=Cassette(tape, "record"))
    await api.request("GET", "/first")
    before, write = tape.read_bytes(), os.write

    def full(handle, content):
        monkeypatch.setattr(os, "write", full_now)
        return write(handle, content[:20])

    def full_now(handle, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(EnvFault, match=r"cannot be written: .*No space left"):
        await api.request("GET", "/second")
    monkeypatch.setattr(os, "write", write)
    assert tape.read_bytes() == before
    await api.request("GET", "/third")
    await api.aclose()
    assert len(tape.read_bytes().splitlines()) == 2


async def test_a_password_in_the_address_of_an_api_is_hidden_where_the_server_echoes_it(server, canned):
    server.rest = lambda request: canned(body=json.dumps(request.headers).encode())
    api = HttpApi(server.url.replace("://", "://user:hunter2hunter2@"))
    reply = await api.request("GET", "/x")
    await api.aclose()
    sent = server.seen[0].headers["authorization"]
    assert base64.b64decode(sent.removeprefix("Basic ")) == b"user:hunter2hunter2"
    assert sent not in reply.text
    assert "REDACTED" in reply.text


# What the code of an environment reads.


async def test_an_answer_that_is_cut_off_is_no_value_for_an_environment(server, canned):
    server.rest = lambda request: canned(body=json.dumps({"loans": "x" * 500}).encode())
    tools = api_tools(DOCUMENT, base_url=server.url, settings=HttpSettings(max_response_bytes=100))
    with pytest.raises(EnvFault, match=r"a: its answer is longer than 100 bytes.*max_response_bytes") as caught:
        await tools.call("a")
    assert caught.value.at == "author"
    await tools.aclose()


async def test_an_answer_of_any_depth_is_its_text_for_an_environment(server, canned):
    server.rest = lambda request: canned(body=b"[" * 9_000)
    tools = api_tools(DOCUMENT, base_url=server.url)
    assert await tools.call("a") == "[" * 9_000
    await tools.aclose()


# Documents.


def served(server, canned, body, **headers):
    server.rest = lambda request: canned(body=body, headers={"Content-Type": "application/json", **headers})
    return server.url.replace("://", "://user:hunter2@") + "/openapi.json?token=hunter2"


async def test_a_document_from_an_address_is_read_within_a_bound(server, canned, monkeypatch):
    monkeypatch.setattr("agentrl.tools.openapi.document.MOST_DOCUMENT_BYTES", 1_000_000)
    packed = gzip.compress(b" " * 50_000_000)
    address = await asyncio.to_thread(served, server, canned, packed, **{"Content-Encoding": "gzip"})
    with pytest.raises(ToolSchemaError, match="is longer than 1000000 bytes") as caught:
        await asyncio.to_thread(load_document, address)
    assert "hunter2" not in str(caught.value)
    whole = gzip.compress(json.dumps(DOCUMENT).encode())
    address = served(server, canned, whole, **{"Content-Encoding": "gzip"})
    content, _ = await asyncio.to_thread(load_document, address)
    assert content == DOCUMENT


def test_a_document_that_cannot_be_fetched_is_named_without_its_password(server, canned):
    server.rest = lambda request: canned(404)
    address = server.url.replace("://", "://user:hunter2@") + "/openapi.json?token=hunter2"
    with pytest.raises(ToolSchemaError, match=r"/openapi.json.* cannot be fetched: status 404") as caught:
        load_document(address)
    assert "hunter2" not in str(caught.value)
    server.rest = lambda request: canned(body=b"{")
    with pytest.raises(ToolSchemaError, match="is not valid JSON") as caught:
        load_document(address)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ToolSchemaError, match="cannot be fetched"):
        load_document("http://127.0.0.1:1/openapi.json")


def test_a_file_that_is_no_text_or_not_there_is_named(tmp_path):
    path = tmp_path / "openapi.json"
    with pytest.raises(ToolSchemaError, match=r"openapi\.json cannot be read"):
        load_document(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ToolSchemaError, match=r"openapi\.json cannot be read"):
        load_document(path)


# Paths.


def items(server):
    item = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    paths = {"/items/{id}": {"get": {"operationId": "item", "parameters": [item]}}}
    (tool,) = api_tools({"openapi": "3.0.0", "paths": paths}, base_url=f"{server.url}/v1")
    return tool


@pytest.mark.parametrize(
    "value", ["../admin", "../../v1/admin", "../../items/7", "..\\admin", "7/../../admin", "a/../..", "./../x/y"]
)
async def test_a_path_argument_cannot_lead_to_an_address_that_the_document_does_not_name(server, value):
    """Some servers read `%2F` as `/`, and resolve `..`."""
    tool = items(server)
    with pytest.raises(ToolError, match=r"^id: '\.\.' leads out of its place in the address"):
        await tool.function(**tool.validate({"id": value}))
    assert not server.seen
    await tool.aclose()


@pytest.mark.parametrize("value", ["o/../x", "group/project", "a..b", "..a/b", "7..."])
async def test_a_path_argument_that_stays_is_sent(server, value):
    tool = items(server)
    await tool.function(**tool.validate({"id": value}))
    assert httpx.URL(server.url + server.seen[0].path).path == f"/v1/items/{value}"
    assert server.seen[0].path.count("/") == 3
    await tool.aclose()


# Sessions.


async def test_a_session_in_the_path_is_in_no_fault(server, canned):
    """It is drawn anew for each episode: equal faults of two episodes would differ."""
    server.rest = lambda request: canned(500)
    settings = HttpSettings(retry=Retry(attempts=1))

    class Desk(ToolEnv):
        tasks = Tasks.of(train=[{}])

        async def start(self, task):
            api = HttpApi(server.url, session=Session("desk", where="path"), settings=settings)
            try:
                await api.request("GET", "/desks/{desk}/books")
            finally:
                await api.aclose()

    said = []
    for _ in range(2):
        env = Desk()
        with pytest.raises(EnvFault) as caught:
            await env.areset(seed=1)
        said.append(str(caught.value))
        await env.aclose()
    assert said[0] == said[1]
    assert "/desks/REDACTED/books failed" in said[0]


def test_a_wrong_address_is_named_without_its_password():
    for make in (lambda url: HttpApi(url), lambda url: oauth2(url, "A", "B")):
        with pytest.raises(ValueError, match=r"must be a http or https address, got 'ftp://x\.test'") as caught:
            make("ftp://user:hunter2@x.test")
        assert "hunter2" not in str(caught.value)


# Whose doing it is.


UNSENDABLE = {"header": ("a\nb", "printable"), "query": ("\ud800", "lone surrogate"), "path": ("../x", "leads out of")}


@pytest.mark.parametrize("place", UNSENDABLE)
async def test_a_fixed_value_that_cannot_be_sent_is_the_authors(place):
    value, message = UNSENDABLE[place]
    parameter = {"name": "p", "in": place, "required": True, "schema": {"type": "string"}}
    path = "/a/{p}" if place == "path" else "/a"
    document = {**DOCUMENT, "paths": {path: {"get": {"operationId": "a", "parameters": [parameter]}}}}
    (tool,) = api_tools(document, fix={"p": value}, transport=httpx.MockTransport(lambda request: httpx.Response(200)))
    with pytest.raises(EnvFault, match=rf"fix=\{{'p': \.\.\.\}} cannot be sent: .*{message}") as caught:
        await tool.function(**tool.validate({}))
    assert caught.value.at == "author"


async def test_no_request_waits_for_those_of_other_episodes(server, canned):
    """A wait for a free connection would count against the time of an attempt."""
    many = 130
    together = threading.Barrier(many, timeout=20)

    def answer(request):
        together.wait()
        return canned()

    server.rest, server.lock = answer, contextlib.nullcontext()
    api = HttpApi(server.url, settings=HttpSettings(timeout_s=30, retry=Retry(attempts=1)))
    replies = await asyncio.gather(*(api.request("GET", f"/{number}") for number in range(many)))
    await api.aclose()
    assert {reply.status for reply in replies} == {200}
