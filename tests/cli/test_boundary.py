"""Errors, exit codes, JSON and speed of the `agentrl` command."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from agentrl.cli import COMMANDS, FirstOfItsKind, boundary, main
from agentrl.cli.boundary import Commands, json_option, module_of, print_json
from agentrl.errors import EnvFault


def group(error: BaseException | None) -> Commands:
    """A group like `main` with one command that raises, or prints."""

    class Toy(Commands):
        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
            @click.command("do")
            @json_option
            def do(as_json: bool) -> None:
                if error is not None:
                    raise error
                print_json({"fine": True}) if as_json else click.echo("fine")

            return do

    return Toy(summaries={"do": "Do it."})


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (EnvFault("the store went away"), 1, "EnvFault: the store went away\n"),
        (ValueError("n must be 1 or more, got 0"), 1, "Error: n must be 1 or more, got 0\n"),
        (OSError(28, "No space left on device"), 1, "Error: [Errno 28] No space left on device\n"),
        (
            ModuleNotFoundError("No module", name="torch.nn"),
            1,
            "Missing: torch.nn is not installed: pip install 'agent",
        ),
    ],
)
def test_errors_are_one_message_and_an_exit_code(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boundary, "_OURS", (str(Path(__file__).parent),))  # as if raised by AgentRL itself
    result = CliRunner().invoke(group(error), ["do"])
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1


def test_our_bugs_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentrl.cli.envs.registry.env_ids", lambda: [3])
    monkeypatch.setattr("agentrl.cli.envs.describe", lambda env_id: {"id": env_id})
    assert isinstance(CliRunner().invoke(main, ["envs"]).exception, TypeError)  # len of an int, in our file


AUTHORS_FILES = {
    "import a_package_that_nobody_has\n": "Missing: a_package_that_nobody_has is not installed (mine.py:1 in <module>)",
    "x = 1\ndef broken(:\n": "SyntaxError: invalid syntax (",
    "from agentrl import ToolEnv\nclass Bad(ToolEnv):\n    tasks = [1]\n": "TypeError: Bad.tasks is a list: write",
    "from agentrl import register\n@register('a/B-v0')\nclass Bad:\n    pass\n": "TypeError: @register('a/B-v0') must",
    "from agentrl import register\n@register\nclass Bad:\n    pass\n": "TypeError: register needs an id: write @",
    "x = 1\n\x00": "SyntaxError: source code string cannot contain null bytes (",
    "x = 1 / 0\n": "ZeroDivisionError: division by zero (mine.py:1 in <module>); --debug",
    "x = {}['tea']\n": "KeyError: key 'tea' is missing (mine.py:1 in <module>)",
    "int('tea')\n": "ValueError: invalid literal for int() with base 10: 'tea' (mine.py:1 in <module>)",
}


@pytest.mark.parametrize("text", AUTHORS_FILES)
@pytest.mark.parametrize("command", ["bench", "play", "check", "train"])
def test_a_mistake_in_an_authors_file_is_named_with_its_line(
    command: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(text)
    result = CliRunner().invoke(main, [command, "./mine.py:Mine"])
    assert result.exit_code == 1
    assert AUTHORS_FILES[text] in result.stderr
    assert "mine.py" in result.stderr
    assert "Traceback" not in result.output
    assert not isinstance(CliRunner().invoke(main, [command, "./mine.py:Mine", "--debug"]).exception, SystemExit)


@pytest.mark.parametrize("command", ["bench", "play", "check", "train"])
def test_an_authors_file_that_raises_what_ctrl_c_does_is_named(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("import signal\nraise KeyboardInterrupt\n")
    result = CliRunner().invoke(main, [command, "./mine.py:Mine"])
    assert result.exit_code == 1
    assert "KeyboardInterrupt: it was raised with no Ctrl-C (mine.py:2 in <module>)" in result.stderr
    Path("mine.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    result = CliRunner().invoke(main, [command, "./mine.py:Mine"])
    assert result.exit_code == 130
    assert result.stderr.endswith("Interrupted: stopped by Ctrl-C\n")


@pytest.mark.parametrize("command", ["bench", "play", "check", "train"])
def test_sys_exit_in_an_authors_file_is_no_success(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("import sys\nsys.exit(0)\n")
    result = CliRunner().invoke(main, [command, "./mine.py:Mine"])
    assert result.exit_code == 1
    assert "SystemExit: sys.exit(0) was called (mine.py:2 in <module>)" in result.stderr


EXECUTOR = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from agentrl.cli import boundary, main

idle = ThreadPoolExecutor(1)
idle.submit(int).result()
if sys.argv[1] == "hangs":
    ThreadPoolExecutor(1).submit(time.sleep, 3600)
boundary.end_in_spite_of_threads = partial(boundary.end_in_spite_of_threads, patience_s=0.5)
sys.argv[1:] = ["envs", "--json"]
main()
"""


@pytest.mark.parametrize("how", ["hangs", "ends"])
def test_threads_of_an_authors_code_keep_no_command_from_ending(how: str) -> None:
    done = subprocess.run([sys.executable, "-c", EXECUTOR, how], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert isinstance(json.loads(done.stdout), list)
    assert ("threads that do not end: 1" in done.stderr) == (how == "hangs")


AGENTS = {
    "next(iter([]))": "StopIteration: (agent.py:2 in play)",
    "raise StopAsyncIteration('tea')": "StopAsyncIteration: tea (agent.py:2 in play)",
    "raise GeneratorExit('tea')": "GeneratorExit: tea (agent.py:2 in play)",
    "raise BaseException('tea')": "BaseException: tea (agent.py:2 in play)",
}


@pytest.mark.parametrize("line", AGENTS)
def test_whatever_an_agent_raises_is_named_with_its_line(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("agent.py").write_text(f"async def play(messages, tools):\n    {line}\n")
    result = CliRunner().invoke(main, ["bench", "agentrl/Guess-v0", "--policy", "./agent.py:play", "--tasks", "1"])
    assert result.exit_code == 1
    assert AGENTS[line] in result.stderr


def test_a_mistake_in_start_is_named_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "from agentrl import ToolEnv\nclass Mine(ToolEnv):\n    def start(self, task):\n        return nothing\n"
    )
    result = CliRunner().invoke(main, ["play", "./mine.py:Mine"])
    assert result.exit_code == 1
    assert result.stderr.startswith("NameError: name 'nothing' is not defined (mine.py:4 in start)")


def test_debug_shows_the_traceback() -> None:
    error = EnvFault("x")
    assert CliRunner().invoke(group(error), ["do", "--debug"]).exception is error


def test_json_is_one_document_also_on_failure() -> None:
    good = CliRunner().invoke(group(None), ["do", "--json"])
    assert (good.exit_code, json.loads(good.stdout)) == (0, {"fine": True})
    bad = CliRunner().invoke(group(EnvFault("gone")), ["do", "--json"])
    assert (bad.exit_code, json.loads(bad.stdout)) == (1, {"error": {"type": "EnvFault", "message": "gone"}})
    assert bad.stderr == "EnvFault: gone\n"


@pytest.mark.parametrize("command", [["do", "--json", "--fast"], ["do", "--fast", "--json"], ["dont", "--json"]])
def test_json_is_one_document_also_where_usage_is_wrong(command: list[str]) -> None:
    wrong = CliRunner().invoke(group(None), command)
    assert (wrong.exit_code, json.loads(wrong.stdout)["error"]["type"]) == (2, "Usage")
    assert CliRunner().invoke(group(None), [word for word in command if word != "--json"]).stdout == ""


def test_json_is_one_document_also_for_a_bug_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundary, "_OURS", (str(Path(__file__).parent),))  # as if raised by AgentRL itself
    bug = CliRunner().invoke(group(RuntimeError("no such state")), ["do", "--json"])
    assert isinstance(bug.exception, RuntimeError)  # its traceback is shown
    assert json.loads(bug.stdout) == {"error": {"type": "RuntimeError", "message": "no such state"}}


def test_usage_errors_exit_with_2_and_suggest() -> None:
    result = CliRunner().invoke(main, ["tran"])
    assert result.exit_code == 2
    assert "Did you mean 'train'?" in result.stderr
    assert CliRunner().invoke(main, ["envs", "--jsn"]).exit_code == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"Usage: main {name}")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from agentrl.cli import main; main(['--help'], standalone_mode=False); "
        "print(sorted({'torch', 'transformers', 'numpy', 'gymnasium', 'pydantic', 'rich'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert output.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_module_imports_torch(name: str) -> None:
    code = f"import sys, {module_of(name)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_a_flood_of_like_warnings_is_cut_short() -> None:
    shown = FirstOfItsKind(most=2)
    records = [logging.LogRecord("a", logging.WARNING, "", 0, "episode %s is void", (i,), None) for i in range(50)]
    other = logging.LogRecord("b", logging.WARNING, "", 0, "something else", (), None)
    assert [r.getMessage() for r in [*records, other] if shown.filter(r)] == [
        "episode 0 is void",
        "episode 1 is void (more like this are not shown; agentrl -v shows all)",
        "something else",
    ]


def test_wrong_usage_is_said_by_click_wherever_click_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundary, "INSTALLED", ())
    result = CliRunner().invoke(main, ["import-gguf", "model.gguf"])
    assert result.exit_code == 2
    assert "Missing option '--out'" in result.output
    assert "traceback" not in result.output
