"""`agentrl view`: the address, as a program reads it; a clean end; wrong places."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from agentrl.cli import main
from tests.viewer.conftest import episode, write


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_the_page_answers_at_the_printed_address_and_ends_cleanly(
    end: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    write(tmp_path / "runs" / "a" / "trajectories.jsonl", episode(0))
    command = [sys.executable, "-m", "agentrl", "view", "runs", "--no-browser", "--json"]
    page = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert page.stdout is not None
        found = json.loads(page.stdout.readline())
        assert found["pid"] == page.pid
        address, _, token = found["url"].partition("?token=")
        assert address.startswith("http://127.0.0.1:")
        assert len(token) >= 32
        with httpx.Client(timeout=30) as client:
            assert client.get(address).status_code == 401
            assert "<title>AgentRL" in client.get(found["url"]).text
            names = [run["name"] for run in client.get(f"{address}api/runs").json()["runs"]]  # by the cookie
            assert names == ["a"]
            for file in ("app.js", "look.css", "page.css", "icon.svg"):
                assert client.get(f"{address}static/{file}").status_code == 200
    finally:
        page.send_signal(end)
        rest, errors = page.communicate(timeout=30)
    assert (page.returncode, rest) == (0, "")
    assert errors.splitlines()[-1] == "Stopped"
    assert "Traceback" not in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "temporary"], "no folder of forks was made"
    assert list((tmp_path / "temporary").iterdir()) == [], "the index is removed"


@pytest.mark.parametrize(
    ("words", "told"), [(["missing"], "there is no missing"), ([".", "--policy", "oracl"], "oracl")]
)
def test_a_wrong_place_or_policy_is_told(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(main, ["view", *words, "--no-browser"])
    assert answer.exit_code == 1
    assert told in answer.stderr


@pytest.mark.parametrize(("words", "extra"), [(["view", "."], "viewer"), (["serve-model", "."], "serve")])
def test_a_missing_server_names_the_smallest_extra(words: list[str], extra: str) -> None:
    code = f"import sys; sys.modules['uvicorn'] = None; from agentrl.cli import main; main({words!r})"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 1
    assert f"pip install 'agentrl[{extra}]'" in answer.stderr


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        answer = CliRunner().invoke(main, ["view", str(tmp_path), "--no-browser", "--port", port])
    assert answer.exit_code == 1
    assert "choose another --port" in answer.stderr
