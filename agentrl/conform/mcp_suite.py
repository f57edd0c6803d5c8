"""The door of MCP's own conformance suite. Owns which scenarios no environment can offer, and why.

Each suite runs twice: against the fixture that it asks for, for every scenario, and against the environment itself, for
the scenarios that need no fixture. A scenario passes if none of its checks failed.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agentrl.conform.doors import Job
from agentrl.conform.report import Door
from agentrl.conform.tools import NEWEST, STABLE, suite_in
from agentrl.errors import PackageMissing
from agentrl.serving.envs.server import EnvServer, ServeOptions
from agentrl.trajectory import EnvRef

_FIXTURE = EnvRef("agentrl.conform.mcp_fixture:McpFixture")
_TIMEOUT_S = 300
_ASKS = "the server asks the client for something; a tool of an episode asks nobody"
_LOGS = "log messages for the client, deprecated in 2026-07-28; an episode sends none"
_EXTENSION = "an extension, which the suite does not score"
LEFT_OUT: Mapping[str, str] = {
    "tools-call-sampling": _ASKS,
    "tools-call-elicitation": _ASKS,
    "elicitation-": _ASKS,
    "input-required-": _ASKS,
    "tools-call-with-progress": "a turn has one result, and a tool says nothing before it",
    "tools-call-with-logging": _LOGS,
    "logging-set-level": _LOGS,
    "resources-subscribe": "an episode's resources do not change",
    "resources-unsubscribe": "an episode's resources do not change",
    "tasks-": f"{_EXTENSION}; a turn waits for the result of its tool",
    "sep-2640-": _EXTENSION,
}
"""Beginnings of the names of scenarios -> why an environment cannot offer them."""
LEFT_OUT_CHECKS: Mapping[str, str] = {
    "sep-2575-server-rejects-undeclared-capability": _ASKS,
    "sep-2575-missing-capability-http-400": _ASKS,
    "sep-2575-http-server-no-independent-requests-on-stream": _ASKS,
    "sep-2575-server-no-log-without-loglevel": _LOGS,
}
"""Checks of the scenario `server-stateless` that need diagnostic tools -> why an environment cannot have these."""
ANY_SERVER = (
    "server-initialize",
    "server-stateless",
    "server-session-lifecycle",
    "server-sse-multiple-streams",
    "ping",
    "tools-list",
    "prompts-list",
    "resources-list",
    "sep-2164-resource-not-found",
    "dns-rebinding-protection",
    "http-header-validation",
    "caching",
)
"""Scenarios that need no fixture."""


@dataclass(frozen=True)
class Suite:
    """One run of the suite.

    Attributes:
        version: of the npm package.
        arguments: that choose the scenarios.
    """

    version: str
    arguments: tuple[str, ...]


SUITES: Mapping[str, Suite] = {
    f"mcp suite {STABLE}": Suite(STABLE, ("--suite", "all")),
    f"mcp suite {NEWEST} (2025-11-25)": Suite(NEWEST, ("--requirements", "2025-11-25")),
    f"mcp suite {NEWEST} (2026-07-28)": Suite(NEWEST, ("--requirements", "2026-07-28")),
}


def suite(name: str) -> Callable[[Job], Door]:
    """The door of one suite."""
    chosen = SUITES[name]

    def door(job: Job) -> Door:
        if find_spec("mcp_types") is None:
            raise PackageMissing("mcp")
        program = suite_in(job.tools, chosen.version)
        if program is None:
            raise PackageMissing(f"mcp-conformance-{chosen.version}")
        fixture = judged(failures_of(_FIXTURE, program, chosen))
        own = {name: bad for name, bad in failures_of(job.ref, program, chosen).items() if name in ANY_SERVER}
        seen = judged(own)
        problems = [f"{n} on the fixture: {t}" for n, t in fixture.failed.items()]
        problems += [f"{n} on the environment: {t}" for n, t in seen.failed.items()]
        if problems:
            return Door(name, "failed", "; ".join(problems)[:500])
        reasons = "; ".join(f"{', '.join(names)}: {why}" for why, names in fixture.left_out.items())
        text = (
            f"{fixture.passed} of {fixture.count} scenarios pass on the fixture, and {seen.passed} of the {seen.count} "
        )
        return Door(name, "green", f"{text}that need none on the environment. Left out: {reasons}")

    return door


@dataclass(frozen=True)
class Verdict:
    """What a run of the suite came to.

    Attributes:
        count, passed: scenarios, and those without a failed check.
        failed: name -> what the first check said.
        left_out: why -> scenarios, and checks in parentheses, that no environment can offer.
    """

    count: int
    passed: int
    failed: Mapping[str, str]
    left_out: Mapping[str, list[str]]


def judged(scenarios: Mapping[str, Mapping[str, str]]) -> Verdict:
    """Tell failures from what no environment can offer.

    Args: scenarios: name -> failed check -> its message.
    """
    failed: dict[str, str] = {}
    left_out: dict[str, list[str]] = {}
    passed = 0
    for name, bad in sorted(scenarios.items()):
        why = next((why for begin, why in LEFT_OUT.items() if name.startswith(begin)), "")
        wrong = {check: text for check, text in bad.items() if check not in LEFT_OUT_CHECKS}
        if not bad:
            passed += 1
        elif why:
            left_out.setdefault(why, []).append(name)
        elif wrong:
            failed[name] = next(iter(wrong.values()))
        for check in bad if not (why or wrong) else ():
            left_out.setdefault(LEFT_OUT_CHECKS[check], []).append(f"{name} ({check})")
    return Verdict(len(scenarios), passed, failed, left_out)


def failures_of(ref: EnvRef, program: tuple[str, str], suite: Suite) -> dict[str, dict[str, str]]:
    """Run a suite against an episode. Returns: scenario -> failed check -> its message. Raises: RuntimeError."""
    limits: dict[str, Any] = {**ref.limits, "max_turns": None}
    endless = EnvRef(ref.id, ref.kwargs, limits)
    with EnvServer(endless, ServeOptions(port=0)) as server, tempfile.TemporaryDirectory() as folder:
        headers = {"Authorization": f"Bearer {server.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(server.url + "/mcp/episodes", b"{}", headers)
        with urllib.request.urlopen(request, timeout=60) as reply:
            address = server.url + json.load(reply)["path"]
        command = [*program, "server", "--url", address, "-o", folder, *suite.arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
        found = {_name(path): _failed(path) for path in sorted(Path(folder).glob("server-*/checks.json"))}
    if not found:
        raise RuntimeError(f"the suite wrote no results: {(done.stderr or done.stdout).strip()[-300:]}")
    return found


def _name(path: Path) -> str:
    """The scenario of a result, whose folder is `server-NAME-TIME` with a time of 24 characters."""
    return path.parent.name.removeprefix("server-")[:-25]


def _failed(path: Path) -> dict[str, str]:
    checks: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return {c["id"]: str(c.get("errorMessage") or c["description"]) for c in checks if c["status"] == "FAILURE"}
