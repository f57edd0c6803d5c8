"""`agentrl new-env`: names, refusals, and a package that works as generated."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentrl.cli import main
from agentrl.cli.new_env import Names, scaffold
from agentrl.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ticket-office", Names("my/TicketOffice-v0", "ticket-office", "ticket_office", "TicketOffice")),
        ("TicketOffice", Names("my/TicketOffice-v0", "ticket-office", "ticket_office", "TicketOffice")),
        ("acme/ticket_office-v2", Names("acme/TicketOffice-v2", "ticket-office", "ticket_office", "TicketOffice")),
        ("SQLShop", Names("my/SQLShop-v0", "sql-shop", "sql_shop", "SQLShop")),
        ("a", Names("my/A-v0", "a", "a", "A")),
    ],
)
def test_names(name: str, expected: Names) -> None:
    names = Names.of(name)
    assert (names.env_id.lower(), names.project, names.module) == (
        expected.env_id.lower(),
        expected.project,
        expected.module,
    )
    assert names == expected


@pytest.mark.parametrize("name", ["", "9lives", "a b", "x/y/z", "../up", "random", "class", "agentrl"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(ConfigError):
        Names.of(name)


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    result = CliRunner().invoke(main, ["new-env", "shop", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "not empty" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_in_the_way_is_refused_and_what_an_operating_system_leaves_is_not(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("absent")
    for name in ("file", "link"):
        result = CliRunner().invoke(main, ["new-env", "ticket-office", "--out", str(tmp_path / name)])
        assert result.exit_code != 0
        assert f"{tmp_path / name}" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / ".DS_Store").write_text("finder")
    assert CliRunner().invoke(main, ["new-env", "ticket-office", "--out", str(tmp_path / "new")]).exit_code == 0
    assert (tmp_path / "new" / ".DS_Store").read_text() == "finder"


def test_the_entry_point_names_the_class(tmp_path: Path) -> None:
    names = Names.of("acme/TicketOffice-v0")
    scaffold(names, tmp_path / "new")
    project = tomllib.loads((tmp_path / "new" / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["agentrl.environments"] == {
        "acme/TicketOffice-v0": "ticket_office:TicketOffice"
    }
    assert project["tool"]["setuptools"]["py-modules"] == ["ticket_office"]


def test_it_passes_check_and_its_own_test_as_generated(tmp_path: Path) -> None:
    folder = tmp_path / "ticket-office"
    scaffold(Names.of("ticket-office"), folder)
    checked = CliRunner().invoke(main, ["check", f"{folder / 'ticket_office.py'}:TicketOffice"])
    assert checked.exit_code == 0, checked.output
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert tests.returncode == 0, tests.stdout
    assert "2 passed" in tests.stdout
