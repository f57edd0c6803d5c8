"""The wheel: what is built from the tracked files is whole, without the repository next to it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DATA = (
    "agentrl/__init__.pyi",
    "agentrl/py.typed",
    "agentrl/bench/views/arms.html.jinja",
    "agentrl/bench/views/charts.js.jinja",
    "agentrl/bench/views/page.css.jinja",
    "agentrl/bench/views/report/report.css.jinja",
    "agentrl/bench/views/report/report.html.jinja",
    "agentrl/bench/views/report/report.js.jinja",
    "agentrl/bench/views/run_report.html.jinja",
    "agentrl/cli/scaffold/README.md.jinja",
    "agentrl/cli/scaffold/environment.py.jinja",
    "agentrl/cli/scaffold/pyproject.toml.jinja",
    "agentrl/cli/scaffold/test_environment.py.jinja",
    "agentrl/policy/convert/hermes.jinja",
    "agentrl/sandbox/docker/image/Dockerfile",
    "agentrl/sandbox/docker/image/build.sh",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "agentrl/viewer/static").iterdir()),
)
IMPORT_ALL = """
import importlib, pkgutil, sys
sys.path.insert(0, sys.argv[1])
import agentrl
assert agentrl.__file__.startswith(sys.argv[1]), agentrl.__file__
names = [found.name for found in pkgutil.walk_packages(agentrl.__path__, "agentrl.")]
optional = ("aiohttp", "mcp", "mcp_types", "openenv", "verifiers", "websockets")
modules = []
for name in names:
    try:
        if not name.endswith("__main__"):
            modules.append(importlib.import_module(name))
    except ModuleNotFoundError as error:
        assert error.name.partition(".")[0] in optional, error
assert all(module.__file__.startswith(sys.argv[1]) for module in modules)
print(*names, sep="\\n")
"""


def run(*command: str | Path, cwd: Path) -> str:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tracked_files() -> list[str]:
    return run("git", "ls-files", cwd=ROOT).splitlines()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel of the tracked files was installed, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in tracked_files():
        if (ROOT / name).exists():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--wheel-dir", folder / "wheels", folder / "source", cwd=folder)
    (wheel,) = (folder / "wheels").glob("*.whl")
    run(*pip, "install", "--no-deps", "--target", folder / "site", wheel, cwd=folder)
    return folder / "site"


@pytest.mark.slow
def test_every_module_is_in_the_wheel_and_can_be_imported(installed: Path) -> None:
    """The folder stands first on the path, and every module must come from it, not from the repository."""
    imported = run(sys.executable, "-I", "-c", IMPORT_ALL, installed, cwd=installed.parent).split()
    folders = {"agentrl": "agentrl", "environments": "agentrl.environments", "tools": "agentrl.tools"}
    paths = [Path(name) for name in tracked_files() if name.endswith(".py") and name.split("/")[0] in folders]
    ours = {".".join((folders[p.parts[0]], *p.with_suffix("").parts[1:])).removesuffix(".__init__") for p in paths}
    assert {"agentrl", *imported} == ours


@pytest.mark.slow
@pytest.mark.parametrize("name", DATA)
def test_the_wheel_has_what_is_no_module(installed: Path, name: str) -> None:
    assert (installed / name).read_bytes() == (ROOT / name).read_bytes()


@pytest.mark.slow
def test_the_wheel_has_the_names_that_verifiers_looks_for(installed: Path) -> None:
    for path in (ROOT / "plugins").glob("*.py"):
        assert (installed / path.name).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_every_tracked_file_that_is_no_module_is_listed() -> None:
    """A new template or script is added to the list above, and so tested."""
    others = [name for name in tracked_files() if name.startswith("agentrl/") and not name.endswith(".py")]
    assert sorted(others) == sorted(DATA)


@pytest.mark.slow
def test_the_wheel_declares_the_command_and_the_bundled_environments(installed: Path) -> None:
    (declared,) = installed.glob("agentrl-*.dist-info/entry_points.txt")
    assert "agentrl = agentrl.cli:main" in declared.read_text()
    assert "agentrl/Shop-v0 = agentrl.environments.shop:Shop" in declared.read_text()
