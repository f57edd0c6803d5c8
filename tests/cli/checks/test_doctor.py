"""`agentrl doctor`: what it finds, what it says of missing and broken things."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from agentrl.cli import main
from agentrl.cli.checks import doctor
from agentrl.cli.checks.doctor import Finding
from agentrl.env import registry


def test_all_is_well_here() -> None:
    result = CliRunner().invoke(main, ["doctor", "--json"])
    report = json.loads(result.stdout)
    assert result.exit_code == 0
    names = {finding["name"] for finding in report["findings"]}
    assert {"python", "torch", "transformers", "disk", "environments", "network"} <= names
    # A backend that is not here (docker, on most machines) is a warning with the command that fixes it.
    wanting = [finding for finding in report["findings"] if finding["status"] != "ok"]
    assert report["ok"] is all(finding["status"] != "failed" for finding in wanting)
    assert CliRunner().invoke(main, ["doctor"]).stdout.count("  fix: ") == sum(bool(f["repair"]) for f in wanting)


def test_a_missing_package_has_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert [(f.status, f.repair) for f in doctor.look_at_train_packages()] == 3 * [
        ("warning", "pip install 'agentrl[train]'")
    ]
    assert doctor.look_at_device() == []


def test_a_package_that_does_not_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "brokenwheel.py").write_text("raise OSError('libgomp.so.1: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    found = doctor._package("brokenwheel", "needed")
    assert found.status == "failed"
    assert "libgomp" in found.detail
    assert found.repair == "pip install --force-reinstall --no-deps brokenwheel"


def test_little_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**29))
    (found,) = doctor.look_at_disk()
    assert (found.status, found.repair) == ("warning", "du -sh runs/* | sort -h")
    assert found.detail.startswith("0.5 GiB free")


def test_an_environment_that_does_not_load_fails_the_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(env_id: str) -> None:
        raise RuntimeError("no database")

    monkeypatch.setattr(registry, "make", broken)
    monkeypatch.setattr(registry, "env_ids", lambda: ["their/Env-v0"])
    detail = "does not load: RuntimeError: no database"
    assert doctor.look_at_environments() == [
        Finding("their/Env-v0", "failed", detail, "agentrl check their/Env-v0 --debug")
    ]
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert "fix: agentrl check their/Env-v0 --debug" in result.stdout


def test_offline_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    assert doctor.look_at_offline_flags()[0].detail == "HF_HUB_OFFLINE set: local models only"
