from __future__ import annotations

import asyncio
import gzip
import json

import httpx
import pytest

from agentrl.errors import ConfigError, EnvFault
from agentrl.tools.cassette import Cassette
from agentrl.tools.http_api import HttpApi, HttpSettings, Retry, api_key, basic, bearer

SECRET = "s3cr3t/token+1"
SETTINGS = HttpSettings(retry=Retry(attempts=3, base_s=0.001))


async def run(api, *requests):
    """Make requests in order, then close; the replies' texts."""
    try:
        return [(await api.request(method, path, **more)).text for method, path, more in requests]
    finally:
        await api.aclose()


def api_on(url, path, mode, **more):
    return HttpApi(url, transport=Cassette(path, mode), settings=SETTINGS, **more)


def answers(canned, *texts):
    return [canned(body=text.encode(), headers={"Content-Type": "text/plain"}) for text in texts]


async def test_what_was_recorded_is_replayed_without_a_server(server, tmp_path):
    tape = tmp_path / "deep" / "tape.jsonl"
    requests = [
        ("GET", "/a", {"params": [("q", "1"), ("p", "é")]}),
        ("POST", "/a", {"json": {"x": 1, "y": [True, None]}}),
        ("GET", "/a", {}),
    ]
    recorded = await run(api_on(server.url, tape, "record"), *requests)
    server.stop()
    server.start()
    before = tape.read_bytes()
    old_url = json.loads(tape.read_text().splitlines()[0])["url"].split("/a")[0]
    assert await run(api_on(old_url, tape, "replay"), *requests) == recorded
    assert await run(api_on(old_url, tape, "replay"), *reversed(requests)) == recorded[::-1]
    assert len(server.seen) == 3
    assert tape.read_bytes() == before


async def test_an_unknown_request_says_how_to_record(server, tmp_path):
    tape = tmp_path / "tape.jsonl"
    await run(api_on(server.url, tape, "record"), ("GET", "/a", {}))
    for unknown in [("GET", "/b", {}), ("POST", "/a", {}), ("GET", "/a", {"params": [("q", "1")]})]:
        with pytest.raises(EnvFault, match=r"has no answer to .*mode='auto'"):
            await run(api_on(server.url, tape, "replay"), unknown)
    assert len(server.seen) == 1


async def test_a_body_matches_as_json_and_not_as_bytes(server, tmp_path):
    tape = tmp_path / "tape.jsonl"
    first = await run(api_on(server.url, tape, "record"), ("POST", "/a", {"json": {"x": 1, "y": 2}}))
    assert await run(api_on(server.url, tape, "replay"), ("POST", "/a", {"json": {"y": 2, "x": 1}})) == first
    with pytest.raises(EnvFault):
        await run(api_on(server.url, tape, "replay"), ("POST", "/a", {"json": {"x": 1, "y": 3}}))


async def test_the_host_counts_unless_told_otherwise(server, tmp_path):
    for match, mode in ((True, "record"), (False, "record")):
        tape = tmp_path / f"{match}.jsonl"
        api = HttpApi(server.url, transport=Cassette(tape, mode, match_host=match))
        recorded = await run(api, ("GET", "/a", {"params": [("q", "1")]}))
        other = HttpApi("https://elsewhere.test", transport=Cassette(tape, "replay", match_host=match))
        if match:
            with pytest.raises(EnvFault, match="has no answer"):
                await run(other, ("GET", "/a", {"params": [("q", "1")]}))
        else:
            assert await run(other, ("GET", "/a", {"params": [("q", "1")]})) == recorded
            assert str(server.port) not in tape.read_text()


async def test_query_order_and_headers_play_no_part(server, tmp_path):
    tape = tmp_path / "tape.jsonl"
    first = await run(api_on(server.url, tape, "record"), ("GET", "/a", {"params": [("b", "1"), ("a", "2")]}))
    again = ("GET", "/a", {"params": [("a", "2"), ("b", "1")], "headers": {"X-Trace": "other"}})
    assert await run(api_on(server.url, tape, "replay"), again) == first


async def test_auto_asks_the_server_only_once(server, tmp_path):
    tape = tmp_path / "tape.jsonl"
    api = api_on(server.url, tape, "auto")
    first = await run(api, ("GET", "/a", {}))
    assert await run(api, ("GET", "/a", {})) == first
    assert (await run(api_on(server.url, tape, "auto"), ("GET", "/a", {}), ("GET", "/b", {})))[0] == first[0]
    assert [request.path for request in server.seen] == ["/a", "/b"]


async def test_equal_requests_of_an_episode_keep_their_order(server, canned, tmp_path):
    tape = tmp_path / "tape.jsonl"
    cassette = Cassette(tape, "record")
    api = HttpApi(server.url, transport=cassette)
    server.script = answers(canned, "e1 pending", "e1 done", "e2 pending", "e2 failed")

    async def episode(cassette, api, key):
        cassette.start_episode(key)
        texts = []
        for _ in range(2):
            texts.append((await api.request("GET", "/job")).text)
            await asyncio.sleep(0)
        return texts

    recorded = [await episode(cassette, api, key) for key in ("e1", "e2")]
    await api.aclose()
    assert recorded == [["e1 pending", "e1 done"], ["e2 pending", "e2 failed"]]
    replaying = Cassette(tape, "replay")
    offline = HttpApi(server.url, transport=replaying)
    # Interleaved, and with e1 twice at once: each run has its own place on its tape.
    runs = [asyncio.create_task(episode(replaying, offline, key)) for key in ("e2", "e1", "e1")]
    assert await asyncio.gather(*runs) == [recorded[1], recorded[0], recorded[0]]
    assert len(server.seen) == 4


async def test_past_the_end_of_a_tape_reading_repeats_and_writing_fails(server, canned, tmp_path):
    tape = tmp_path / "tape.jsonl"
    server.script = answers(canned, "one", "two", "ordered")

    async def work(mode, *requests):
        cassette = Cassette(tape, mode)
        api = HttpApi(server.url, transport=cassette)
        cassette.start_episode("e")
        texts = [(await api.request(method, "/x")).text for method in requests]
        await api.aclose()
        return texts

    await work("record", "GET", "GET", "POST")
    assert await work("replay", "GET", "GET", "GET", "GET", "POST") == ["one", "two", "two", "two", "ordered"]
    with pytest.raises(EnvFault, match="in episode 'e' after POST /x; record this course"):
        await work("replay", "POST", "POST")


async def test_failures_that_are_retried_are_not_recorded(server, canned, tmp_path):
    tape = tmp_path / "tape.jsonl"
    server.script = [canned(503), canned(429), *answers(canned, "well")]
    assert await run(api_on(server.url, tape, "record"), ("GET", "/a", {})) == ["well"]
    assert [json.loads(line)["status"] for line in tape.read_text().splitlines()] == [200]
    assert await run(api_on(server.url, tape, "replay"), ("GET", "/a", {})) == ["well"]


async def test_a_4xx_is_recorded(server, canned, tmp_path):
    tape = tmp_path / "tape.jsonl"
    server.script = [canned(404, body=b"gone")]
    for mode in ("record", "replay"):
        with pytest.raises(Exception, match="status 404: gone"):
            await run(api_on(server.url, tape, mode), ("GET", "/a", {}))
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "auth", [bearer("API_TOKEN"), api_key("sig", "API_TOKEN", where="query"), basic("API_USER", "API_TOKEN")]
)
async def test_no_secret_is_written_and_a_replay_needs_none(server, canned, tmp_path, monkeypatch, auth):
    monkeypatch.setenv("API_TOKEN", SECRET)
    monkeypatch.setenv("API_USER", "ana")
    tape = tmp_path / "tape.jsonl"
    server.script = answers(canned, f"you sent {SECRET}, or s3cr3t%2Ftoken%2B1")
    request = ("POST", "/a", {"json": {"note": f"my token is {SECRET}"}, "params": [("token", "other"), ("q", "1")]})
    recorded = await run(api_on(server.url, tape, "record", auth=auth), request)
    assert SECRET.encode() in server.seen[0].body
    written = tape.read_text()
    for form in (SECRET, "s3cr3t%2Ftoken%2B1", "YW5hOnMzY3IzdC90b2tlbisx", "token=other", "authorization"):
        assert form.lower() not in written.lower()
    monkeypatch.delenv("API_TOKEN")
    monkeypatch.delenv("API_USER")
    request[2]["json"] = {"note": "my token is REDACTED"}
    assert await run(api_on(server.url, tape, "replay", auth=auth), request) == recorded


async def test_bytes_that_are_no_text_come_back_exactly(server, canned, tmp_path):
    tape = tmp_path / "tape.jsonl"
    server.script = [canned(body=bytes(range(256)), headers={"Content-Type": "x/y"})]

    async def get(mode):
        async with httpx.AsyncClient(transport=Cassette(tape, mode)) as client:
            return (await client.get(server.url + "/a")).content

    assert await get("record") == await get("replay") == bytes(range(256))


async def test_recording_anew_wins(server, canned, tmp_path):
    tape = tmp_path / "tape.jsonl"
    for text in ("old", "new"):
        server.script = answers(canned, text)
        await run(api_on(server.url, tape, "record"), ("GET", "/a", {}))
    assert await run(api_on(server.url, tape, "replay"), ("GET", "/a", {})) == ["new"]


async def test_a_torn_last_line_is_dropped_and_recording_goes_on(server, tmp_path):
    tape = tmp_path / "tape.jsonl"
    first = await run(api_on(server.url, tape, "record"), ("GET", "/a", {}))
    whole = tape.read_bytes()
    tape.write_bytes(whole + whole[: len(whole) // 2])
    assert await run(api_on(server.url, tape, "replay"), ("GET", "/a", {})) == first
    assert len(await run(api_on(server.url, tape, "auto"), ("GET", "/a", {}), ("GET", "/b", {}))) == 2
    assert len([json.loads(line) for line in tape.read_text().splitlines()]) == 2


def test_bad_cassettes_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none.jsonl does not exist; record one"):
        Cassette(tmp_path / "none.jsonl")
    with pytest.raises(ConfigError, match="record, replay or auto"):
        Cassette(tmp_path / "none.jsonl", "play")
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"episode": ""}\nno json\n')
    with pytest.raises(ConfigError, match="line 1"):
        Cassette(broken)


async def test_equal_requests_sent_at_once_are_both_kept(server, canned, tmp_path):
    tape = tmp_path / "tape.jsonl"
    server.script = answers(canned, "a", "b")

    async def both(mode):
        cassette = Cassette(tape, mode)
        api = HttpApi(server.url, transport=cassette)
        cassette.start_episode("e")
        replies = await asyncio.gather(*(api.request("POST", "/x") for _ in range(2)))
        await api.aclose()
        return sorted(reply.text for reply in replies)

    assert await both("record") == await both("replay") == ["a", "b"]


async def test_a_given_transport_stays_open_when_the_cassette_is_dropped(tmp_path):
    class Inner(httpx.AsyncBaseTransport):
        closed = 0

        async def handle_async_request(self, request):
            return httpx.Response(200, text="well")

        async def aclose(self):
            self.closed += 1

    inner = Inner()
    for close in (False, True):
        cassette = Cassette(tmp_path / "tape.jsonl", "record", inner=inner)
        await cassette.handle_async_request(httpx.Request("GET", "http://x.test"))
        if close:
            await cassette.aclose()
        del cassette
        for _ in range(10):
            await asyncio.sleep(0)
        assert inner.closed == close


async def test_a_compression_bomb_is_recorded_as_far_as_it_is_read(server, canned, tmp_path):
    tape = tmp_path / "tape.jsonl"
    bomb = gzip.compress(b"a" * 50_000_000, 9)
    server.script = [canned(body=bomb, headers={"Content-Type": "text/plain", "Content-Encoding": "gzip"})]
    recorded = await run(api_on(server.url, tape, "record"), ("GET", "/a", {}))
    assert tape.stat().st_size < 200_000
    assert await run(api_on(server.url, tape, "replay"), ("GET", "/a", {})) == recorded
    assert recorded == ["a" * 64_000]
