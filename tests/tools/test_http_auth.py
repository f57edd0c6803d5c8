"""Credentials that real APIs ask for: keys in each place, and tokens of OAuth 2 that are fetched anew."""

from __future__ import annotations

import asyncio
import base64
import json
from urllib.parse import parse_qs

import pytest

from agentrl.errors import EnvFault, ToolError
from agentrl.tools.cassette import Cassette
from agentrl.tools.http_api import HttpApi, HttpSettings, Retry, api_key, oauth2

QUICK = HttpSettings(timeout_s=5, retry=Retry(attempts=3, base_s=0.001))
SECRET = "s3cr3t/of+the client"


@pytest.fixture
def names(monkeypatch):
    monkeypatch.setenv("THE_ID", "agent:1")
    monkeypatch.setenv("THE_SECRET", SECRET)


class Tokens:
    """Answers `/token`, and refuses every other request whose token is not the newest."""

    def __init__(self, server, canned, **answer):
        self.server, self.canned, self.answer = server, canned, {"expires_in": 3600, **answer}
        self.given, self.asked, self.accepts = 0, [], True
        server.rest = self

    def __call__(self, request):
        if request.path == "/token":
            self.asked.append(request)
            self.given += 1
            return self.canned(body=json.dumps({"access_token": self.newest, **self.answer}).encode())
        if not self.accepts or request.headers.get("authorization") != f"Bearer {self.newest}":
            return self.canned(401, body=b"who are you?")
        return self.canned(body=json.dumps({"you_sent": self.newest}).encode())

    @property
    def newest(self):
        return f"token-number-{self.given}"


def api_of(server, **options):
    auth = oauth2(f"{server.url}/token", "THE_ID", "THE_SECRET", **options)
    return HttpApi(server.url, auth=auth, settings=QUICK)


async def test_a_key_in_a_cookie(server, monkeypatch):
    monkeypatch.setenv("THE_KEY", "a;b c")
    api = HttpApi(server.url, auth=api_key("sid", "THE_KEY", where="cookie"))
    await api.request("GET", "/x")
    await api.aclose()
    assert server.seen[0].headers["cookie"] == "sid=a%3Bb%20c"


async def test_a_token_is_fetched_once_and_used(server, canned, names):
    tokens = Tokens(server, canned)
    api = api_of(server, scope="read write", audience="x")
    replies = await asyncio.gather(*(api.request("GET", f"/{n}") for n in range(8)))
    await api.aclose()
    (asked,) = tokens.asked
    assert parse_qs(asked.body.decode()) == {
        "grant_type": ["client_credentials"],
        "scope": ["read write"],
        "audience": ["x"],
    }
    # Source: RFC 6749, section 2.3.1: both are form-encoded before they are joined.
    pair = base64.b64decode(asked.headers["authorization"].removeprefix("Basic ")).decode()
    assert pair == "agent%3A1:s3cr3t%2Fof%2Bthe+client"
    assert [reply.text for reply in replies] == ['{"you_sent": "REDACTED"}'] * 8


async def test_id_and_secret_in_the_form(server, canned, names):
    tokens = Tokens(server, canned)
    api = api_of(server, in_body=True)
    await api.request("GET", "/x")
    await api.aclose()
    fields = parse_qs(tokens.asked[0].body.decode())
    assert (fields["client_id"], fields["client_secret"]) == (["agent:1"], [SECRET])
    assert "authorization" not in tokens.asked[0].headers


async def test_a_token_is_replaced_before_it_expires(server, canned, names, monkeypatch):
    now_s = 1000.0
    monkeypatch.setattr("agentrl.tools.http_credentials.time.monotonic", lambda: now_s)
    tokens = Tokens(server, canned, expires_in=100)
    api = api_of(server)
    for at_s, given in ((1000.0, 1), (1069.0, 1), (1071.0, 2), (1072.0, 2)):
        now_s = at_s
        await api.request("GET", "/x")
        assert tokens.given == given, at_s
    await api.aclose()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_token_that_is_refused_is_replaced_once(server, canned, names, method):
    tokens = Tokens(server, canned)
    api = api_of(server)
    await api.request("GET", "/x")
    tokens.given += 1  # the server has forgotten the token
    assert (await api.request(method, "/x")).status == 200
    assert len(tokens.asked) == 2
    tokens.accepts = False
    with pytest.raises(EnvFault, match=r"refused the credentials \(401\); check THE_ID, THE_SECRET"):
        await api.request(method, "/x")
    assert len(tokens.asked) == 3
    await api.aclose()


async def test_a_server_that_gives_no_token_is_a_fault(server, canned, names):
    refused = {"error": "invalid_client", "error_description": SECRET}
    server.rest = lambda request: canned(400, body=json.dumps(refused).encode())
    api = api_of(server)
    with pytest.raises(
        EnvFault, match=r"refused a token \(status 400: invalid_client\); check THE_ID and THE"
    ) as caught:
        await api.request("GET", "/x")
    assert caught.value.at == "author"
    assert SECRET not in str(caught.value)
    server.rest = lambda request: canned(503)
    with pytest.raises(EnvFault, match="gave no token in 3 attempts, last with status 503") as caught:
        await api.request("GET", "/x")
    assert caught.value.at == "server"
    assert {seen.path for seen in server.seen} == {"/token"}
    await api.aclose()


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"nonsense", b'{"access_token": 5}', b'{"access_token": "a\\nb"}', b"[" * 9999]
)
async def test_what_is_no_token_is_a_fault(server, canned, names, body):
    server.rest = lambda request: canned(body=body)
    api = api_of(server)
    with pytest.raises(EnvFault, match="no token in its answer"):
        await api.request("GET", "/x")
    await api.aclose()


async def test_a_cassette_holds_no_token_and_replays_without_one(server, canned, names, tmp_path, monkeypatch):
    Tokens(server, canned)
    tape, auth = tmp_path / "tape.jsonl", oauth2(f"{server.url}/token", "THE_ID", "THE_SECRET")
    api = HttpApi(server.url, auth=auth, settings=QUICK, transport=Cassette(tape, "record"))
    recorded = (await api.request("GET", "/x")).text
    await api.aclose()
    assert len(tape.read_text().splitlines()) == 1
    assert "token-number" not in tape.read_text()
    monkeypatch.delenv("THE_ID")
    monkeypatch.delenv("THE_SECRET")
    server.seen.clear()
    api = HttpApi(server.url, auth=auth, settings=QUICK, transport=Cassette(tape, "replay"))
    assert (await api.request("GET", "/x")).text == recorded
    assert not server.seen


async def test_tokens_are_not_sent_where_a_redirect_leads(server, canned, names):
    Tokens(server, canned)
    api = HttpApi(
        server.url,
        auth=oauth2(f"{server.url}/token", "THE_ID", "THE_SECRET"),
        allow_hosts=[f"127.0.0.1:{server.port}", f"localhost:{server.port}"],
        settings=HttpSettings(follow_redirects=True),
    )
    await api.request("GET", "/x")
    server.script = [canned(302, headers={"Location": f"http://localhost:{server.port}/y"}), canned()]
    await api.request("GET", "/x")
    await api.aclose()
    assert server.seen[-1].path == "/y"
    assert "authorization" not in server.seen[-1].headers


def test_an_address_that_is_none_is_refused():
    with pytest.raises(ValueError, match="token_url must be a http or https address"):
        oauth2("example.com/token", "A", "B")


async def test_a_redirect_from_https_to_http_is_not_followed():
    import httpx

    def answer(request):
        return httpx.Response(302, headers={"Location": "http://api.test/x"})

    api = HttpApi(
        "https://api.test", settings=HttpSettings(follow_redirects=True), transport=httpx.MockTransport(answer)
    )
    with pytest.raises(ToolError, match="from https to http, which is not followed"):
        await api.request("GET", "/x")
