from __future__ import annotations

import asyncio
import gc
import json
import random
import re
import subprocess
import sys
import traceback
import warnings
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from agentrl.errors import EnvFault, ToolError
from agentrl.tools.cassette import Cassette
from agentrl.tools.http_api import Auth, HttpApi, HttpSettings, Reply, Retry, api_key, basic, bearer, reply_text

QUICK = HttpSettings(timeout_s=2.0, retry=Retry(attempts=3, base_s=0.001))
SECRET = "s3cr3t/token+1"


async def ask(api, *args, **kwargs):
    """One request, with everything closed after it."""
    try:
        return await api.request(*args, **kwargs)
    finally:
        await api.aclose()


async def test_a_request_as_it_arrives(server):
    api = HttpApi(server.url + "/v1/", settings=HttpSettings(headers={"X-App": "agentrl"}))
    reply = await ask(api, "post", "/items", params=[("tag", "a b"), ("tag", "c&d")], json={"n": 1})
    assert json.loads(reply.text) == {"method": "POST", "path": "/v1/items?tag=a+b&tag=c%26d", "body": '{"n":1}'}
    assert server.seen[0].headers["x-app"] == "agentrl"


@pytest.mark.parametrize("value", ["a\n", " a", "a\r\nX-Admin: 1", "\x00"])
def test_a_header_of_the_settings_that_cannot_be_sent_is_refused_at_once(value):
    with pytest.raises(ValueError, match="header X-App must have no control characters"):
        HttpSettings(headers={"X-App": value})


# Retries.


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_a_get_is_retried(server, canned, status):
    server.script = [canned(status), canned(status)]
    assert (await ask(HttpApi(server.url, settings=QUICK), "GET", "/x")).status == 200
    assert len(server.seen) == 3


async def test_spent_retries_are_a_fault_that_names_the_request(server, canned):
    server.rest = lambda request: canned(503)
    with pytest.raises(EnvFault, match=r"GET http://127.0.0.1:\d+/x failed 3 times, last with status 503") as caught:
        await ask(HttpApi(server.url, settings=QUICK), "GET", "/x", params=[("q", "1")])
    assert [seen.path for seen in server.seen] == ["/x?q=1"] * 3 + ["/"]
    assert (caught.value.at, caught.value.answers) == ("server", False)


@pytest.mark.parametrize(("status", "requests"), [(500, 1), (504, 1), (507, 1), (429, 3), (503, 3)])
async def test_a_post_is_sent_again_only_where_it_was_not_carried_out(server, canned, status, requests):
    server.script = [canned(status)] * requests
    with pytest.raises(EnvFault) as caught:
        await ask(HttpApi(server.url, settings=QUICK), "POST", "/x", json={})
    assert [seen.method for seen in server.seen if seen.method == "POST"] == ["POST"] * requests
    assert caught.value.at == "server"


async def test_a_post_may_be_sent_again_on_request(server, canned):
    server.script = [canned(500)]
    settings = HttpSettings(retry=Retry(base_s=0.001, unsafe_methods=True))
    assert (await ask(HttpApi(server.url, settings=settings), "POST", "/x", json={})).status == 200


async def test_a_connection_that_breaks_is_retried_for_a_get_only(server, canned):
    server.script = [canned(hang_up=True)]
    assert (await ask(HttpApi(server.url, settings=QUICK), "GET", "/x")).status == 200
    server.script = [canned(hang_up=True)]
    with pytest.raises(EnvFault, match="may have been carried out"):
        await ask(HttpApi(server.url, settings=QUICK), "POST", "/x", json={})


async def test_a_killed_server_is_a_fault_and_a_restarted_one_works(tmp_path):
    (tmp_path / "x.txt").write_text("here")
    process, port = _serve(tmp_path, 0)
    api = HttpApi(f"http://127.0.0.1:{port}", settings=QUICK)
    assert (await ask(api, "GET", "/x.txt")).text == "here"
    process.kill()
    process.wait()
    with pytest.raises(EnvFault, match="failed 3 times, last with ConnectError") as caught:
        await ask(api, "GET", "/x")
    assert (caught.value.at, caught.value.answers) == ("network", None)
    process, _ = _serve(tmp_path, port)
    assert (await ask(api, "GET", "/x.txt")).text == "here"
    process.kill()
    process.wait()


def _serve(folder, port):
    """A file server in a process of its own; port 0 lets the system choose."""
    command = [sys.executable, "-u", "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    with process.stdout as output:
        line = output.readline()
    return process, int(re.search(r"port (\d+)", line).group(1))


async def test_retry_after_is_kept_in_seconds_and_as_a_date(server, canned, monkeypatch):
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    monkeypatch.setattr("agentrl.wire.retry.asyncio.sleep", sleep)
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=15), usegmt=True)
    server.script = [canned(429, headers={"Retry-After": "7"}), canned(429, headers={"Retry-After": later})]
    await ask(HttpApi(server.url, settings=QUICK), "GET", "/x")
    assert waits[0] == 7.0
    assert 10 < waits[1] <= 15
    server.script = [canned(429, headers={"Retry-After": "3600"})]
    with pytest.raises(EnvFault, match="asks to wait 3600 s") as caught:
        await ask(HttpApi(server.url, settings=QUICK), "GET", "/x")
    assert caught.value.at == "server"


async def test_backoff_doubles_under_a_jitter_of_its_own_generator(server, canned, monkeypatch):
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    monkeypatch.setattr("agentrl.wire.retry.asyncio.sleep", sleep)
    settings = HttpSettings(retry=Retry(attempts=5, base_s=1.0, max_wait_s=3.0))
    server.script = [canned(503)] * 4
    await ask(HttpApi(server.url, settings=settings, rng=random.Random(5)), "GET", "/x")
    twin = random.Random(5)
    assert waits == [twin.uniform(0, most) for most in (1.0, 2.0, 3.0, 3.0)]


async def test_one_attempt_has_a_deadline_even_if_bytes_keep_coming(server, canned):
    server.script = [canned(body=b"x" * 100, drip_s=0.05)]
    settings = HttpSettings(timeout_s=0.2, retry=Retry(attempts=1))
    with pytest.raises(EnvFault, match="TimeoutError"):
        await ask(HttpApi(server.url, settings=settings), "GET", "/x")


# What the model sees.


@pytest.mark.parametrize("status", [400, 403, 404, 409, 422])
async def test_a_4xx_is_for_the_model(server, canned, status):
    server.script = [canned(status, body=b'{"detail": "no such item"}')]
    with pytest.raises(ToolError, match=f"status {status}: .*no such item"):
        await ask(HttpApi(server.url, settings=QUICK), "GET", "/x")
    assert len(server.seen) == 1


async def test_a_long_error_is_shortened(server, canned):
    server.script = [canned(400, body=b"y" * 10_000)]
    with pytest.raises(ToolError) as caught:
        await ask(HttpApi(server.url, settings=QUICK), "GET", "/x")
    assert len(str(caught.value)) < 600


async def test_a_large_body_is_cut_off(server, canned):
    server.script = [canned(body=b"z" * 1_000_000, headers={"Content-Type": "text/plain"})]
    reply = await ask(HttpApi(server.url, settings=HttpSettings(max_response_bytes=1000)), "GET", "/x")
    assert reply.cut_off
    assert reply_text(reply) == "z" * 1000 + " [cut off]"


def test_how_replies_read():
    assert reply_text(Reply(200, '{ "a": [1, 2] }', "application/json")) == '{"a":[1,2]}'
    assert reply_text(Reply(200, '{"a": "é"}', "application/problem+json")) == '{"a":"é"}'
    assert reply_text(Reply(200, "{ broken", "application/json")) == "{ broken"
    assert reply_text(Reply(200, "a  b", "text/plain")) == "a  b"
    assert reply_text(Reply(204, "")) == "ok"


async def test_binary_is_named_not_shown(server, canned):
    server.script = [canned(body=b"\x89PNG\xff", headers={"Content-Type": "image/png"})]
    assert (await ask(HttpApi(server.url), "GET", "/x")).text == "<image/png, 5 bytes>"


# Hosts.


async def test_only_the_base_host_is_allowed_by_default(server, canned):
    server.script = [canned(302, headers={"Location": "http://169.254.169.254/latest"})]
    api = HttpApi(server.url, settings=HttpSettings(follow_redirects=True))
    with pytest.raises(ToolError, match=r"'169\.254\.169\.254' is not allowed"):
        await ask(api, "GET", "/x")


async def test_the_port_counts(server, canned):
    server.script = [canned(302, headers={"Location": "http://127.0.0.1:1/x"})]
    with pytest.raises(ToolError, match=r"'127\.0\.0\.1:1' is not allowed"):
        await ask(HttpApi(server.url, settings=HttpSettings(follow_redirects=True)), "GET", "/x")
    with pytest.raises(ToolError, match="is not allowed"):
        await ask(HttpApi(server.url, allow_hosts=["127.0.0.1"]), "GET", "/x")
    assert (await ask(HttpApi(server.url, allow_hosts=[f"127.0.0.1:{server.port}"]), "GET", "/x")).status == 200


async def test_redirects_are_off_by_default_and_bounded(server, canned):
    server.script = [canned(302, headers={"Location": "/other"})]
    with pytest.raises(ToolError, match="redirects are off"):
        await ask(HttpApi(server.url), "GET", "/x")
    server.script = [canned(302, headers={"Location": "/again"})] * 20
    with pytest.raises(ToolError, match="more than 5 redirects"):
        await ask(HttpApi(server.url, settings=HttpSettings(follow_redirects=True)), "GET", "/x")


@pytest.mark.parametrize(("status", "method", "body"), [(303, "GET", ""), (302, "GET", ""), (307, "POST", '{"n":1}')])
async def test_a_followed_redirect_keeps_the_method_where_it_should(server, canned, status, method, body):
    server.script = [canned(status, headers={"Location": "/other"})]
    api = HttpApi(server.url, settings=HttpSettings(follow_redirects=True))
    reply = json.loads((await ask(api, "POST", "/x", json={"n": 1})).text)
    assert reply == {"method": method, "path": "/other", "body": body}


async def test_credentials_do_not_follow_to_another_origin(server, canned, monkeypatch):
    monkeypatch.setenv("API_TOKEN", SECRET)
    api = HttpApi(
        server.url,
        allow_hosts=[f"127.0.0.1:{server.port}", f"localhost:{server.port}"],
        auth=[bearer("API_TOKEN"), api_key("key", "API_TOKEN", where="query")],
        settings=HttpSettings(follow_redirects=True),
    )
    server.script = [canned(302, headers={"Location": f"http://localhost:{server.port}/other"})]
    await ask(api, "GET", "/x")
    assert server.seen[0].headers["authorization"] == f"Bearer {SECRET}"
    assert server.seen[1].path == "/other"
    assert "authorization" not in server.seen[1].headers


def test_the_base_url_must_be_a_web_address():
    with pytest.raises(ValueError, match="http or https"):
        HttpApi("file:///etc/passwd")


# Credentials.


@pytest.mark.parametrize(
    ("auth", "header", "value"),
    [
        (bearer("API_TOKEN"), "authorization", f"Bearer {SECRET}"),
        (api_key("X-Key", "API_TOKEN"), "x-key", SECRET),
        (basic("API_USER", "API_TOKEN"), "authorization", "Basic YW5hOnMzY3IzdC90b2tlbisx"),
    ],
)
async def test_auth_headers(server, monkeypatch, auth, header, value):
    monkeypatch.setenv("API_TOKEN", SECRET)
    monkeypatch.setenv("API_USER", "ana")
    await ask(HttpApi(server.url, auth=auth), "GET", "/x")
    assert server.seen[0].headers[header] == value


async def test_a_key_in_the_query_keeps_the_other_parameters(server, monkeypatch):
    monkeypatch.setenv("API_TOKEN", "abc")
    await ask(HttpApi(server.url, auth=api_key("key", "API_TOKEN", where="query")), "GET", "/x", params=[("a", "1")])
    assert server.seen[0].path == "/x?a=1&key=abc"


@pytest.mark.parametrize(
    "auth", [bearer("API_TOKEN"), api_key("key", "API_TOKEN", where="query"), basic("API_USER", "API_TOKEN")]
)
@pytest.mark.parametrize("status", [200, 400, 401, 503])
async def test_a_secret_shows_in_no_reply_and_no_error(server, canned, monkeypatch, auth: Auth, status):
    monkeypatch.setenv("API_TOKEN", SECRET)
    monkeypatch.setenv("API_USER", "ana")
    forms = [SECRET, "s3cr3t%2Ftoken%2B1", *(["YW5hOnMzY3IzdC90b2tlbisx"] if auth.kind == "basic" else [])]
    server.rest = lambda request: canned(status, body=" ".join(forms).encode())
    try:
        shown = (await ask(HttpApi(server.url, auth=auth, settings=QUICK), "GET", "/x")).text
        assert "REDACTED" in shown
    except (ToolError, EnvFault):
        shown = traceback.format_exc()
    assert not [form for form in forms if form in shown]
    assert SECRET not in repr(auth)


async def test_refused_credentials_are_a_fault_not_the_models_mistake(server, canned, monkeypatch):
    monkeypatch.setenv("API_TOKEN", SECRET)
    server.script = [canned(401)]
    with pytest.raises(EnvFault, match=r"refused the credentials \(401\); check API_TOKEN") as caught:
        await ask(HttpApi(server.url, auth=bearer("API_TOKEN")), "GET", "/x")
    assert caught.value.at == "author"
    server.script = [canned(401)]
    with pytest.raises(ToolError, match="401"):
        await ask(HttpApi(server.url), "GET", "/x")


async def test_a_missing_variable_is_named(server, monkeypatch):
    monkeypatch.delenv("API_TOKEN", raising=False)
    with pytest.raises(EnvFault, match="API_TOKEN is not set") as caught:
        await ask(HttpApi(server.url, auth=bearer("API_TOKEN")), "GET", "/x")
    assert not server.seen
    assert caught.value.at == "author"


@pytest.mark.parametrize("value", ["k3y\r", " k3y", "k\u00e9y", "k\udcff"])
async def test_credentials_that_cannot_be_sent_name_their_variable(server, monkeypatch, value):
    monkeypatch.setenv("API_TOKEN", value)
    with pytest.raises(EnvFault, match="environment variable API_TOKEN") as caught:
        await ask(HttpApi(server.url, auth=bearer("API_TOKEN")), "GET", "/x")
    assert not server.seen
    assert caught.value.at == "author"


async def test_a_401_while_the_credentials_still_work_is_about_the_arguments(server, canned, monkeypatch):
    monkeypatch.setenv("API_TOKEN", SECRET)
    server.rest = lambda request: canned(401 if request.path == "/login" else 200)
    api = HttpApi(server.url, auth=bearer("API_TOKEN"))
    await api.request("GET", "/x")
    with pytest.raises(ToolError, match="status 401"):
        await api.request("POST", "/login", json={"password": "wrong"})
    server.rest = lambda request: canned(401)
    with pytest.raises(EnvFault, match="refused the credentials"):
        await ask(api, "POST", "/login", json={"password": "wrong"})


async def test_cookies_do_not_pass_from_one_request_to_the_next(server, canned):
    server.script = [canned(headers={"Set-Cookie": "session=abc"})]
    api = HttpApi(server.url)
    await api.request("GET", "/x")
    await api.request("GET", "/x")
    await api.aclose()
    assert "cookie" not in server.seen[1].headers


# The life of a client.


def test_one_client_per_loop_reopened_after_closing_and_nothing_left_open(server):
    api = HttpApi(server.url)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        for _ in range(3):
            with asyncio.Runner() as loop:  # this test is about several event loops
                assert loop.run(ask(api, "GET", "/x")).status == 200
        gc.collect()


@pytest.mark.parametrize("recorded", [False, True])
async def test_a_client_that_is_dropped_closes_its_connections(server, tmp_path, recorded):
    gc.collect()  # what other tests left open
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", ResourceWarning)
        api = HttpApi(server.url, transport=Cassette(tmp_path / "tape.jsonl", "record") if recorded else None)
        await api.request("GET", "/x")
        del api
        for _ in range(20):
            await asyncio.sleep(0)
        gc.collect()
    assert [str(warning.message) for warning in warned] == []


async def test_closing_waits_for_requests_under_way(server, canned):
    server.script = [canned(body=b"slow", headers={"Content-Type": "text/plain"}, drip_s=0.05)]
    api = HttpApi(server.url)
    slow = asyncio.create_task(api.request("GET", "/slow"))
    while not server.seen:
        await asyncio.sleep(0.005)
    await api.aclose()
    assert (await api.request("GET", "/other")).status == 200
    assert (await slow).text == "slow"


async def test_many_requests_at_once(server):
    api = HttpApi(server.url)
    replies = await asyncio.gather(*(api.request("GET", f"/{i}") for i in range(64)))
    await api.aclose()
    assert [json.loads(reply.text)["path"] for reply in replies] == [f"/{i}" for i in range(64)]


async def test_a_cancelled_request_leaves_the_client_usable(server, canned):
    server.script = [canned(body=b"x" * 100, drip_s=0.05)]
    api = HttpApi(server.url)
    slow = asyncio.create_task(api.request("GET", "/slow"))
    while not server.seen:
        await asyncio.sleep(0.005)
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow
    assert (await api.request("GET", "/x")).status == 200
    await api.aclose()


@pytest.mark.parametrize("before", ["a" * 93, "\u65e5" * 31, "\u65e5" * 5_362, "a" * 16_090, "a" * 16_099, "a" * 50])
async def test_a_secret_at_the_limit_is_hidden_as_a_whole_before_the_cut(server, canned, monkeypatch, before):
    monkeypatch.setenv("API_TOKEN", SECRET)
    server.rest = lambda request: canned(
        body=f"{before}{SECRET}{before}".encode(), headers={"Content-Type": "text/plain"}
    )
    api = HttpApi(server.url, auth=bearer("API_TOKEN"), settings=HttpSettings(max_response_bytes=100))
    reply = await ask(api, "GET", "/x")
    assert reply.cut_off
    assert SECRET[:3] not in reply.text
    assert len(reply.text) <= 100 or not reply.text.isascii()
