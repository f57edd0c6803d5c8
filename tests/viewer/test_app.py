"""The page's JSON, and who may ask for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentrl.messages import Action, Message, ToolCall
from agentrl.trajectory import Task, Turn
from agentrl.viewer.app import make_app
from agentrl.viewer.forks.playing import ForkOptions, Forks
from agentrl.viewer.watch import Watcher
from tests.viewer.conftest import PORT, TOKEN, client_of, episode, got, look, only_source, write

Watch = Callable[..., Watcher]
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\x1b[2J\x1b]0;owned\x07\u202eevil\u2066"


@pytest.fixture
def watcher(tmp_path: Path, watch: Watch) -> Watcher:
    write(tmp_path / "run" / "trajectories.jsonl", *(episode(n, reward=float(n % 2)) for n in range(6)))
    return watch(tmp_path)


PATHS = ["/", "/static/app.js", "/api/runs", "/api/events", "/nothing"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": ""},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": "", "cookie": f"agentrl_view_{PORT}=wrong"},
        {"authorization": "", "cookie": f"agentrl_view_{PORT + 1}={TOKEN}"},
        {"authorization": "", "cookie": "\x7f;=;"},
    ],
)
async def test_nothing_is_shown_without_the_right_token(path: str, headers: dict[str, str], watcher: Watcher) -> None:
    async with client_of(watcher) as client:
        for given in (path, f"{path}?token=wrong", f"{path}?token="):
            answer = await client.get(given, headers=headers)
            assert answer.status_code == 401
            assert "token" in answer.json()["error"]
            assert "set-cookie" not in answer.headers


async def test_the_first_visit_leaves_a_cookie_that_scripts_cannot_read(watcher: Watcher) -> None:
    async with client_of(watcher) as client:
        answer = await client.get("/", params={"token": TOKEN}, headers={"authorization": ""})
        assert answer.status_code == 200
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        later = await client.get("/api/runs", headers={"authorization": "", "cookie": cookie.partition(";")[0]})
        assert later.status_code == 200
        run = only_source(watcher)
        asked = await client.get(f"/api/runs/{run}/episodes?limit=1&token={TOKEN}", headers={"authorization": ""})
        assert len(asked.json()["rows"]) == 1


async def test_the_address_of_the_browser_works_once(watcher: Watcher) -> None:
    """Its token stands among the arguments of the browser's process."""
    with Forks(ForkOptions()) as forks:
        app = make_app(watcher, forks, token=TOKEN, port=PORT, once="first-visit")
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://127.0.0.1:{PORT}") as client:
            first = await client.get("/?token=first-visit")
            assert TOKEN in first.headers["set-cookie"]
            client.cookies.clear()
            assert (await client.get("/?token=first-visit")).status_code == 401
            assert (await client.get("/?token=")).status_code == 401


@pytest.mark.parametrize("host", ["evil.example", f"evil.example:{PORT}", "127.0.0.1", f"127.0.0.1:{PORT + 1}", ""])
async def test_a_foreign_host_is_refused(host: str, watcher: Watcher) -> None:
    """A name that an attacker lets lead to this machine (DNS rebinding)."""
    async with client_of(watcher) as client:
        answer = await client.get("/api/runs", headers={"host": host})
        assert answer.status_code == 421
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": f"https://127.0.0.1:{PORT}"},
        {"origin": f"http://127.0.0.1:{PORT + 1}"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
async def test_a_foreign_origin_is_refused(headers: dict[str, str], watcher: Watcher) -> None:
    async with client_of(watcher) as client:
        assert (await client.get("/api/runs", headers=headers)).status_code == 403
        form = {"run": only_source(watcher), "line": 1, "turn": 0}
        assert (await client.post("/api/forks", json=form, headers=headers)).status_code == 403


async def test_what_a_form_of_another_page_can_send_is_refused(watcher: Watcher) -> None:
    async with client_of(watcher) as client:
        for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
            answer = await client.post("/api/forks", content=b"{}", headers={"content-type": kind})
            assert answer.status_code == 415


async def test_a_large_body_is_refused(watcher: Watcher) -> None:
    async def pieces() -> Any:
        for _ in range(3):
            yield b" " * (1 << 19)

    async with client_of(watcher) as client:
        headers = {"content-type": "application/json"}
        assert (await client.post("/api/forks", content=b" " * (2 << 20), headers=headers)).status_code == 413
        assert (await client.post("/api/forks", content=pieces(), headers=headers)).status_code == 413


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/%2e%2e/guard.py",
        "/static//etc/passwd",
        "/static/%2Fetc%2Fpasswd",
        "/static/app.js%00.html",
        "/api/runs/..%2f..%2fetc%2fpasswd",
        "/api/runs/{run}/../../../etc/passwd",
        "/api/runs/%2Fetc/episodes",
        "/api/runs/{run}/episodes/0",
        "/api/runs/{run}/episodes/-1",
        "/api/runs/{run}/episodes/1e9",
        "/api/runs/{run}/episodes/99999999999999999999",
        "/api/forks/..%2f..",
    ],
)
async def test_a_path_of_a_request_opens_no_file(path: str, watcher: Watcher, tmp_path: Path) -> None:
    async with client_of(watcher) as client:
        answer = await client.get(path.replace("{run}", only_source(watcher)))
        assert answer.status_code == 404, answer.text
        assert "root:" not in answer.text
        assert str(tmp_path) not in answer.text


@pytest.mark.parametrize("path", PATHS[:3] + PATHS[4:])
async def test_every_answer_forbids_foreign_code_and_keeping(path: str, watcher: Watcher) -> None:
    async with client_of(watcher) as client:
        headers = (await client.get(path)).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")


def test_no_script_stands_in_the_page_and_no_address_leads_elsewhere() -> None:
    folder = Path(__file__).parents[2] / "agentrl" / "viewer" / "static"
    page = (folder / "index.html").read_text()
    assert page.count("<script") == page.count('<script type="module" src="/static/')
    assert " style=" not in page
    assert "<style" not in page
    for file in folder.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text
        assert "https://" not in text
        assert "innerHTML" not in text
        assert "eval(" not in text


async def test_hostile_texts_come_as_inert_json(tmp_path: Path, watch: Watch) -> None:
    """HTML stays text, which the page makes text nodes of; what steers a terminal or a line is escaped."""
    call = ToolCall(HOSTILE, {HOSTILE: HOSTILE}, error=HOSTILE)
    turn = Turn((Message("user", HOSTILE),), Action(HOSTILE, (call,), HOSTILE), 1.0, {HOSTILE: 1.0})
    one = episode(0, info={HOSTILE: HOSTILE}, group_id=HOSTILE, episode_id=HOSTILE)
    one.task, one.turns = Task(HOSTILE, HOSTILE, {"x": HOSTILE}), [turn]
    one.tools = [{"type": "function", "function": {"name": HOSTILE, "description": HOSTILE}}]
    write(tmp_path / HOSTILE.replace("/", "-") / "trajectories.jsonl", one)
    watcher = watch(tmp_path)
    run = only_source(watcher)
    async with client_of(watcher) as client:
        for path in ("/api/runs", f"/api/runs/{run}", f"/api/runs/{run}/episodes", f"/api/runs/{run}/episodes/1"):
            answer = await client.get(path)
            assert answer.status_code == 200, answer.text
            assert answer.headers["content-type"] == "application/json"
            text = json.dumps(answer.json(), ensure_ascii=False)
            assert "<script>" in text
            assert not {"\x1b", "\x07", "\u202e", "\u2066"} & set("".join(_texts(answer.json())))
            assert "\\\\u001b[2J" in text
        one = await got(client, f"/api/runs/{run}/episodes/1")
        same = await got(client, "/api/task", env=one["env_id"], task=one["task"][:300])
        assert [row["line"] for row in same["rows"]] == [1], "found under the name that is shown"


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for item in items for text in _texts(item)]


async def test_a_message_of_ten_million_characters_is_cut(tmp_path: Path, watch: Watch) -> None:
    write(tmp_path / "trajectories.jsonl", episode(0, text="x" * 10_000_000))
    watcher = watch(tmp_path)
    run = only_source(watcher)
    async with client_of(watcher) as client:
        answer = await client.get(f"/api/runs/{run}/episodes/1")
        assert len(answer.content) < 100_000
        assert "9,950,000 more characters" in answer.json()["turns"][1]["action"]["content"]
        assert len((await client.get(f"/api/runs/{run}/episodes/1/raw")).content) > 10_000_000


async def test_numbers_that_are_not_finite_are_null(tmp_path: Path, watch: Watch) -> None:
    write(tmp_path / "trajectories.jsonl", episode(0, reward=float("inf")))
    watcher = watch(tmp_path)
    async with client_of(watcher) as client:
        found = await got(client, f"/api/runs/{only_source(watcher)}/episodes/1")
    assert [turn["reward"] for turn in found["turns"]] == [0.0, None]


async def test_runs_episodes_and_one_task(watcher: Watcher, tmp_path: Path) -> None:
    write(tmp_path / "other" / "trajectories.jsonl", episode(3))
    look(watcher)
    async with client_of(watcher) as client:
        runs = {run["name"]: run for run in (await got(client, "/api/runs"))["runs"]}
        assert set(runs) == {"run", "other"}
        run = runs["run"]
        assert run["progress"] == {"episodes": 6, "metrics": 0, "summary": 0, "generation": 0, "whole": True}
        found = await got(client, f"/api/runs/{run['id']}/episodes", success=True, limit=2)
        assert [row["line"] for row in found["rows"]] == [6, 4]
        older = await got(client, f"/api/runs/{run['id']}/episodes", success=True, limit=2, before=found["next"])
        assert ([row["line"] for row in older["rows"]], older["next"]) == ([2], None)
        one = await got(client, f"/api/runs/{run['id']}/episodes/2")
        assert (one["task"], one["reward"], len(one["turns"]), one["final"]) == ("t-1", 1.0, 2, [])
        same = await got(client, "/api/task", env="test/Lamp-v0", task="t-3")
        assert {(row["source"], row["line"]) for row in same["rows"]} == {(run["id"], 4), (runs["other"]["id"], 1)}


@pytest.mark.parametrize("asked", ["limit=1000", "limit=x", "before=0", "path=/etc/passwd", "reward_min=much"])
async def test_a_wrong_question_is_told(asked: str, watcher: Watcher) -> None:
    async with client_of(watcher) as client:
        answer = await client.get(f"/api/runs/{only_source(watcher)}/episodes?{asked}")
        assert answer.status_code == 400
        assert asked.partition("=")[0] in answer.json()["error"]


async def test_a_line_that_is_gone_or_broken_is_told(watcher: Watcher, tmp_path: Path) -> None:
    store = tmp_path / "run" / "trajectories.jsonl"
    with store.open("ab") as file:
        file.write(b"not JSON\n")
    look(watcher)
    async with client_of(watcher) as client:
        base = f"/api/runs/{only_source(watcher)}/episodes"
        assert (await client.get(f"{base}/7")).status_code == 409
        assert (await client.get(f"{base}/8")).status_code == 404
        store.write_bytes(b"")
        assert (await client.get(f"{base}/1")).status_code == 410


async def test_appended_lines_are_told_as_events(watcher: Watcher, tmp_path: Path) -> None:
    run = only_source(watcher)
    with Forks(ForkOptions()) as forks:
        app = make_app(watcher, forks, token=TOKEN, port=PORT)
        told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body" and message["body"].startswith(b"data: "):
                told.put_nowait(json.loads(message["body"].removeprefix(b"data: ")))

        async def receive() -> Any:
            await asyncio.sleep(60)

        request = httpx.Request("GET", f"http://127.0.0.1:{PORT}/api/events")
        headers = [(b"host", request.headers["host"].encode()), (b"authorization", f"Bearer {TOKEN}".encode())]
        scope = {"type": "http", "method": "GET", "path": "/api/events", "query_string": b"", "headers": headers}
        asking = asyncio.create_task(app(scope, receive, send))
        first = await asyncio.wait_for(told.get(), 10)
        assert first["moved"][run]["episodes"] == 6
        write(tmp_path / "run" / "trajectories.jsonl", episode(9))
        look(watcher)
        assert (await asyncio.wait_for(told.get(), 10))["moved"][run]["episodes"] == 7
        asking.cancel()
