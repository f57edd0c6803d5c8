"""Verdicts on MCP's conformance suite; the suite itself runs in `benchmarks/conform.py`, where npm installed it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from agentrl.conform import mcp_suite
from agentrl.conform.doors import Job
from agentrl.conform.mcp_suite import judged
from agentrl.conform.tools import EXTERNAL, how_to_install, install_commands, python_in, suite_in
from agentrl.errors import PackageMissing
from agentrl.trajectory import EnvRef


def test_what_no_environment_can_offer_is_left_out_and_never_counts_as_passed() -> None:
    seen = {
        "ping": {},
        "tools-call-sampling": {"tools-call-sampling": "there is no tool"},
        "server-stateless": {"sep-2575-server-no-log-without-loglevel": "not testable"},
        "tools-list": {"tools-list": "there are none"},
    }
    found = judged(seen)
    assert (found.count, found.passed, dict(found.failed)) == (4, 1, {"tools-list": "there are none"})
    names = [name for names in found.left_out.values() for name in names]
    assert names == ["server-stateless (sep-2575-server-no-log-without-loglevel)", "tools-call-sampling"]


def test_a_wrong_answer_beside_a_check_that_is_left_out_fails() -> None:
    bad = {"sep-2575-server-no-log-without-loglevel": "not testable", "sep-2575-server-discover": "no answer"}
    assert dict(judged({"server-stateless": bad}).failed) == {"server-stateless": "no answer"}


def test_a_suite_that_is_missing_is_named(tmp_path: Path) -> None:
    pytest.importorskip("mcp_types")
    name = next(iter(mcp_suite.SUITES))
    with pytest.raises(PackageMissing, match=r"mcp-conformance-0\.1\.16"):
        mcp_suite.suite(name)(Job(EnvRef("x"), [], tmp_path, {}, str(tmp_path)))


def test_the_command_that_installs_is_told() -> None:
    assert "npm install" in how_to_install("mcp-conformance-0.1.16", "there")
    assert "@modelcontextprotocol/conformance@0.1.16" in how_to_install("mcp-conformance-0.1.16", "there")
    make, install = install_commands("harbor", "there")
    assert make == "python3.12 -m venv there/harbor"
    assert install.endswith("-m pip install harbor==0.26.0")
    assert install_commands("verifiers", "there", "./here")[1].endswith("verifiers==0.4.0 ./here")
    for name in EXTERNAL:
        assert "==" in how_to_install(name, "there") or "@" in how_to_install(name, "there")


def test_where_a_tool_is_found(tmp_path: Path) -> None:
    assert python_in("", "atif") is None
    assert python_in(str(tmp_path), "atif") is None
    python = tmp_path / "atif" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    assert python_in(str(tmp_path), "atif") == str(python)
    assert suite_in(str(tmp_path), "0.1.16") is None


def test_a_suite_that_writes_results_is_read(tmp_path: Path) -> None:
    pytest.importorskip("mcp_types")
    script = tmp_path / "suite.py"
    checks = [
        {"id": "a", "status": "SUCCESS", "description": "fine"},
        {"id": "b", "status": "FAILURE", "description": "B"},
    ]
    script.write_text(
        "import pathlib, sys\n"
        "folder = pathlib.Path(sys.argv[sys.argv.index('-o') + 1]) / 'server-ping-2026-11-28T05-51-18-109Z'\n"
        "folder.mkdir()\n"
        f"(folder / 'checks.json').write_text({json.dumps(json.dumps(checks))})\n"
    )
    suite = mcp_suite.Suite("0", ())
    ref = EnvRef("agentrl/Shop-v0")
    assert mcp_suite.failures_of(ref, (sys.executable, str(script)), suite) == {"ping": {"b": "B"}}
    script.write_text("raise SystemExit('broken')")
    with pytest.raises(RuntimeError, match="wrote no results: broken"):
        mcp_suite.failures_of(ref, (sys.executable, str(script)), suite)
