"""Wheels for a cluster: without dependencies, installable, and under another name when they change."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentrl.cli import main
from agentrl.distributed.shipping import ship
from agentrl.errors import ConfigError

METADATA = """Metadata-Version: 2.4
Name: pantry
Version: 0.1.0
Requires-Dist: agentrl
Requires-Dist: pytest; extra == "dev"
Provides-Extra: dev
Requires-Python: >=3.11

Requires-Dist: stays, because it is text.
"""


def wheel(folder: Path, code: str = "shelf = 1\n", name: str = "pantry-0.1.0-py3-none-any.whl") -> Path:
    """A wheel as `pip wheel` makes it."""
    info, path = "pantry-0.1.0.dist-info", folder / name
    folder.mkdir(exist_ok=True)
    files = {
        "pantry.py": code,
        f"{info}/METADATA": METADATA,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[agentrl.environments]\nmy/Pantry-v0 = pantry:Pantry\n",
    }
    record = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as made:
        for file, text in {**files, f"{info}/RECORD": record}.items():
            made.writestr(file, text)
    return path


def test_only_the_dependencies_are_gone(tmp_path: Path) -> None:
    (made,) = ship([wheel(tmp_path / "dist")], tmp_path / "out").wheels
    with zipfile.ZipFile(made) as bare, zipfile.ZipFile(tmp_path / "dist" / "pantry-0.1.0-py3-none-any.whl") as whole:
        assert bare.namelist() == whole.namelist()
        text = bare.read("pantry-0.1.0.dist-info/METADATA").decode()
        changed = {name for name in whole.namelist() if bare.read(name) != whole.read(name)}
    assert changed == {"pantry-0.1.0.dist-info/METADATA", "pantry-0.1.0.dist-info/RECORD"}
    head, _, body = text.partition("\n\n")
    assert head.splitlines() == ["Metadata-Version: 2.4", "Name: pantry", "Version: 0.1.0", "Requires-Python: >=3.11"]
    assert body == "Requires-Dist: stays, because it is text.\n"


def test_pip_installs_it_as_ray_does_and_its_entry_points_are_found(tmp_path: Path) -> None:
    (made,) = ship([wheel(tmp_path / "dist")], tmp_path / "out").wheels
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--disable-pip-version-check", str(made)]
    if subprocess.run([*pip[:3], "--version"], capture_output=True, check=False).returncode:
        pytest.skip("pip is not installed here")
    subprocess.run([*pip, f"--target={tmp_path / 'on'}"], check=True, capture_output=True)
    code = "from importlib.metadata import entry_points; print(*entry_points(group='agentrl.environments').names)"
    seen = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(tmp_path / "on")},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "my/Pantry-v0" in seen.stdout.split()


def test_a_changed_package_of_the_same_version_has_another_name(tmp_path: Path) -> None:
    (first,) = ship([wheel(tmp_path / "dist")], tmp_path / "out").wheels
    (same,) = ship([wheel(tmp_path / "dist")], tmp_path / "out").wheels
    (other,) = ship([wheel(tmp_path / "dist", "shelf = 2\n")], tmp_path / "out").wheels
    assert first.name != other.name
    assert first.parent == same.parent == other.parent
    tagged = wheel(tmp_path / "tagged", name="pantry-0.1.0-1-py3-none-any.whl")
    (again,) = ship([tagged], tmp_path / "out").wheels
    assert re.fullmatch(r"pantry-0\.1\.0-0h[0-9a-f]{12}-py3-none-any\.whl", again.name)


def test_the_command_writes_what_ray_reads(tmp_path: Path) -> None:
    one, out = wheel(tmp_path / "dist"), tmp_path / "out"
    done = CliRunner().invoke(main, ["ship", str(one), "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert json.loads(Path(found["runtime_env"]).read_text()) == {"py_modules": found["wheels"]}
    assert one.exists()


@pytest.mark.parametrize("name", ["pantry.tar.gz", "pantry-0.1.0-py3-none-any.whl", "absent-1-py3-none-any.whl"])
def test_what_is_no_wheel_is_refused(tmp_path: Path, name: str) -> None:
    if "absent" not in name:
        (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(ConfigError, match=r"is no wheel .*pip wheel --no-deps"):
        ship([tmp_path / name], tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.whl"))
