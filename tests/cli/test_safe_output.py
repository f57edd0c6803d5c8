"""What authors print, what models and servers wrote, and passwords: none of it harms what a command prints."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from jinja2 import Environment
from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from agentrl.bench.views.page_text import for_page
from agentrl.bench.views.run_report import read_metrics
from agentrl.cli import SafeToShow
from agentrl.cli.boundary import print_json, print_tables, say
from agentrl.cli.play import play_episode
from agentrl.env.tool_env import ToolEnv
from agentrl.safe_json import for_terminal

STEERS = "\x1b]0;owned\x07 \x1b[2J \r \x7f \x9b31m \u202eevil\u2066 \u2028 \ufeff \U000e0041"
NOISY = """
import os, subprocess, sys
print("at import")
from agentrl import ToolEnv, Tasks
class Noisy(ToolEnv):
    '''Prints.'''
    tasks = Tasks.of(train=[{"a": 1}], eval=[{"a": 2}, {"a": 3}])
    def start(self, task):
        print("in start")
        os.write(1, b"by number\\n")
        subprocess.run(["echo", "by a program"], check=True)
        sys.__stdout__.write("by the first stream\\n")
        return "go"
    def score(self, answer): print("in score", flush=True); return 1.0
    def oracle(self, messages): return "x"
"""


@pytest.mark.parametrize("command", [["bench"], ["check"]])
def test_json_stays_one_document_whatever_an_author_prints(tmp_path, command):
    (tmp_path / "noisy.py").write_text(NOISY)
    done = subprocess.run(
        [sys.executable, "-m", "agentrl", *command, "./noisy.py:Noisy", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    json.loads(done.stdout)
    for words in ("at import", "in start", "by number", "by a program", "by the first stream", "in score"):
        assert words in done.stderr, words


def test_the_standard_output_is_as_before_after_a_command():
    before = sys.stdout
    from agentrl.cli import main

    result = CliRunner().invoke(main, ["envs", "--json"])
    assert json.loads(result.stdout)
    assert sys.stdout is before


def printed(capsys, function, *given):
    function(*given)
    return capsys.readouterr().out


def is_harmless(text):
    return all(character.isprintable() or character in "\n\t" for character in text)


def test_everything_that_is_printed_is_escaped(capsys):
    table = Table(STEERS)
    table.add_row(Text(STEERS))
    for function, given in ((say, STEERS), (print_json, {STEERS: STEERS}), (lambda t: print_tables(t, 200), table)):
        shown = printed(capsys, function, given)
        assert is_harmless(shown), shown
        assert "\\u001b" in shown
        assert "\\u202e" in shown
    assert json.loads(printed(capsys, print_json, {STEERS: STEERS + "\ud800"})) == {STEERS: STEERS + "\ud800"}
    assert for_terminal("naïve ☕ 👩‍👩‍👧\n\tمرحبا") == "naïve ☕ 👩‍👩‍👧\n\tمرحبا"


class Steers(ToolEnv):
    """A tool's text that steers."""

    def start(self, task):
        return STEERS

    def score(self, answer):
        return 1.0


def test_play_shows_texts_without_obeying_them(capsys):
    play_episode(Steers(), ["answer"], seed=0, options={})
    assert is_harmless(capsys.readouterr().out.replace("\x1b[1m", "").replace("\x1b[0m", ""))


def test_logs_show_no_password_and_no_control_characters():
    def said(text, *given):
        record = logging.LogRecord("httpx", logging.INFO, "x.py", 1, text, given, None)
        assert SafeToShow().filter(record)
        return record.getMessage()

    url = "https://user:pass%2Fword@api.example/v1?api_key=SECRET&page=2&access_token=SECRET2"
    assert said("HTTP Request: %s %s", "GET", url) == (
        "HTTP Request: GET https://api.example/v1?api_key=REDACTED&page=2&access_token=REDACTED"
    )
    assert said("100%% of %s", "\x1b[2J") == "100% of \\u001b[2J"


def test_a_report_reorders_no_text():
    page = Environment(autoescape=True, finalize=for_page).from_string("{{ a }}|{{ b }}|{{ c }}|{{ none }}")
    shown = page.render(a=STEERS, b=Markup(f"<b>{STEERS}</b>"), c=1.5, none=None)
    assert is_harmless(shown)
    assert shown.endswith("</b>|1.5|None")


def test_a_metric_may_be_called_anything(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": 1, "reward/a\u2028b\x85c": 1.0}, {"step": 2}]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    assert read_metrics(path) == lines
