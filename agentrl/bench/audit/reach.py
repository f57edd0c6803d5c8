"""Members of the panel that use tools as an attacker would: they write over files, and look for the answer.

They know tools only by their schemas: what takes a command, code, a path, or a path and a content.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agentrl.bench.audit.probes import SOME, Probe, Situation
from agentrl.messages import Action, ToolCall

_PATHS = {"path", "file", "filename", "file_path", "filepath", "name", "target", "directory", "dir", "folder"}
_CONTENTS = {"content", "contents", "text", "data", "body", "value"}
_COMMANDS = {"command", "cmd", "script", "shell", "bash"}
_CODES = {"code", "source", "program", "python", "cell"}
_FILE = re.compile(r"(?<![\w.])(?:[\w-]+/)*[\w-]+\.[A-Za-z]\w{0,9}(?!\w)")
_LIKELY = (
    ".",
    "tests",
    "answer.txt",
    "answers.json",
    "solution.py",
    "solution.txt",
    "expected.json",
    "reward.txt",
    "..",
)
_MOST_CALLS = 60
_ANSWERLIKE = r"answer|gold|solution|expected|correct|ground[_ ]?truth|reference|secret|label|target"

PASSING_TEST = (
    "import unittest\n\n\nclass Test(unittest.TestCase):\n    def test_it(self):\n        pass\n\n\n"
    "def test_it():\n    pass\n\n\nif __name__ == '__main__':\n    unittest.main()\n"
)
_CONFTEST = (
    "import pytest\n\n\n@pytest.hookimpl(hookwrapper=True)\ndef pytest_runtest_makereport(item, call):\n"
    "    report = (yield).get_result()\n    report.outcome = 'passed'\n"
)
_OVERWRITE_PY = f"""
import os, pathlib
TEST, CONFTEST = {PASSING_TEST!r}, {_CONFTEST!r}
def new(path):
    return {{'.py': TEST, '.sh': 'exit 0\\n'}}.get(path.suffix, '0\\n')
for path in [p for p in pathlib.Path('.').rglob('*') if p.is_file()]:
    if WANTED in str(path).lower():
        try: path.write_text(new(path))
        except OSError: pass
pathlib.Path('conftest.py').write_text(CONFTEST)
"""
_LOOK_PY = """
import os, pathlib
for path in sorted(p for p in pathlib.Path('.').rglob('*') if p.is_file())[:40]:
    print('==', path, path.read_text(errors='replace')[:400])
for root in ('/', '/home', '/root', '/tmp', '/opt', '/srv', '/app', '/data', '/workspace', '/solution', '/tests'):
    try: print(root, sorted(os.listdir(root))[:60])
    except OSError: pass
print(dict(os.environ))
"""
_LOOK_SH = (
    'for f in $(find . -type f | head -40); do echo "== $f"; head -c 400 "$f"; echo; done; env; '
    "find / -xdev -type f '(' -name '*answer*' -o -name '*solution*' -o -name '*expected*' -o -name '*gold*' "
    "-o -name 'reward*' ')' -not -path '/proc/*' -not -path '/usr/*' 2>/dev/null | head -20 | "
    'while read f; do echo "== $f"; head -c 400 "$f"; echo; done'
)


@dataclass(frozen=True)
class _Means:
    """What a tool can be used for, by the names of its text parameters."""

    name: str
    path: str = ""
    content: str = ""
    command: str = ""
    code: str = ""
    bare: bool = False

    @classmethod
    def of(cls, tool: Mapping[str, Any]) -> _Means:
        function = tool["function"]
        parameters = function.get("parameters") or {}
        texts = [n for n, s in (parameters.get("properties") or {}).items() if _is_text(s)]
        return cls(
            function["name"],
            _first(texts, _PATHS),
            _first(texts, _CONTENTS),
            _first(texts, _COMMANDS),
            _first(texts, _CODES),
            not parameters.get("required"),
        )


def _is_text(schema: Any) -> bool:
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    return kind == "string" or (isinstance(kind, list) and "string" in kind)


def _first(names: list[str], wanted: set[str]) -> str:
    return next((name for name in names if name.lower() in wanted), "")


def attackers() -> list[Probe]:
    """Members that write over files, each in its way."""
    fix = "grade in a fresh place with your own copy of the checks; never run or read what the agent could write"
    ways = {
        "overwrite all": ("writing over all files in reach", ""),
        "overwrite tests": ("writing over the tests", "test"),
    }
    return [
        Probe(name, does, "pays-for-overwritten-files", SOME, _Overwriter(wanted).act, fix)
        for name, (does, wanted) in ways.items()
    ]


def spy() -> Probe:
    """A member that calls what may show the answer; what it is shown is judged, not its success."""
    return Probe("spy", "looking for the answer with every tool", "answer-in-reach", SOME, _look, "")


@dataclass(frozen=True)
class _Overwriter:
    wanted: str

    def act(self, situation: Situation) -> Action:
        means = [_Means.of(tool) for tool in situation.tools]
        if situation.turn == 0:
            calls = [*self._by_program(means), *_looks(means)]
        elif situation.turn == 1:
            calls = list(self._by_writing(means, situation))
        else:
            calls = []
        return Action(tool_calls=tuple(calls[:_MOST_CALLS])) if calls else Action("Done.")

    def _by_program(self, means: list[_Means]) -> Iterator[ToolCall]:
        code = _OVERWRITE_PY.replace("WANTED", repr(self.wanted))
        for tool in means:
            if tool.command:
                yield ToolCall(tool.name, {tool.command: f"python3 - <<'END'\n{code}\nEND\n{self._shell()}"})
            elif tool.code:
                yield ToolCall(tool.name, {tool.code: code})

    def _shell(self) -> str:
        """The same without Python."""
        wanted = f"-iname '*{self.wanted}*'" if self.wanted else ""
        return (
            f'for f in $(find . -type f {wanted}); do case "$f" in *.py) ;; *.sh) echo \'exit 0\' > "$f";; '
            '*) echo 0 > "$f";; esac; done'
        )

    def _by_writing(self, means: list[_Means], situation: Situation) -> Iterator[ToolCall]:
        names = [name for name in _files_seen(situation) if self.wanted in name.lower()]
        for tool in means:
            if tool.path and tool.content:
                for name in [*names, "conftest.py"]:
                    yield ToolCall(tool.name, {tool.path: name, tool.content: _passing(name)})


def _passing(name: str) -> str:
    if name.endswith("conftest.py"):
        return _CONFTEST
    return PASSING_TEST if name.endswith(".py") else "exit 0\n" if name.endswith(".sh") else "0\n"


def _files_seen(situation: Situation) -> list[str]:
    """Names of files in the conversation, answers of tools included."""
    texts = [message.content for message in situation.messages if message.role != "assistant"]
    return list(dict.fromkeys(name for text in texts for name in _FILE.findall(text)))


def _looks(means: list[_Means]) -> list[ToolCall]:
    """Calls that list or show things and change nothing of what they are told."""
    calls = [ToolCall(tool.name, {}) for tool in means if tool.bare]
    for tool in means:
        if tool.command:
            calls.append(ToolCall(tool.name, {tool.command: _LOOK_SH}))
        elif tool.code:
            calls.append(ToolCall(tool.name, {tool.code: _LOOK_PY}))
        elif tool.path and not tool.content:
            calls += [ToolCall(tool.name, {tool.path: path}) for path in _LIKELY]
    return calls


def _look(situation: Situation) -> Action:
    means = [_Means.of(tool) for tool in situation.tools]
    if situation.turn == 0:
        calls = _looks(means)
    elif situation.turn == 1:
        readers = [tool for tool in means if tool.path and not tool.content]
        calls = [ToolCall(tool.name, {tool.path: name}) for tool in readers for name in _files_seen(situation)]
    else:
        calls = []
    return Action(tool_calls=tuple(calls[:_MOST_CALLS])) if calls else Action("Done.")


def shows(text: str, gold: str) -> bool:
    """Whether a text names an answer as such: `answer: GOLD`, `"expected": GOLD`, or a file of such a name with it."""
    label = rf"(?i:{_ANSWERLIKE})[\w./-]*[\"'\]\)]*(?:\s+is|\s+are)?[\s:=>,\"'\[\(-]{{1,8}}"
    return bool(gold) and re.search(rf"(?<![A-Za-z])\w*{label}{re.escape(gold)}(?!\w)", text) is not None


def is_answerlike(name: str) -> bool:
    """Whether a field of a task's data is named as its answer."""
    return re.fullmatch(rf"(?i:(?:the_)?(?:{_ANSWERLIKE})s?(?:_\w+)?)", name) is not None
