"""What a sandbox sees of the host: programs, one interpreter and its standard library; never the answer key."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import lazy_loader
import pytest

from agentrl.sandbox import SandboxSpec
from agentrl.sandbox.bubblewrap.backend import Bubblewrap
from agentrl.sandbox.bubblewrap.host_files import hidden, interpreter_folders, shown

ROOT = Path(__file__).resolve().parents[3]
LOOK = """
import glob, importlib.util, json, os, sqlite3, ssl
found = [path for path in json.loads(PATHS) if os.path.exists(path)]
found += [path for stars in ("*", "*/*", "*/*/*", "*/*/*/*") for path in glob.glob(f"/usr/{stars}/agentrl*")]
print(found, importlib.util.find_spec("agentrl"))
"""
# Its arguments: folders below /usr, in which files are put that only this program and its children see.
INSTALLED = """
import asyncio, json, os, shutil, subprocess, sys
source, *folders = sys.argv[1:]
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
files = []
for folder in folders:
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
    for name in ("agentrl", "lazy_loader"):
        shutil.copytree(f"{source}/{name}", f"{folder}/{name}")
    files += [f"{folder}/agentrl/registry.py", f"{folder}/agentrl"]
sys.path.insert(0, folders[0])
from agentrl.sandbox import SandboxSpec, make_backend
async def main():
    async with await make_backend("bubblewrap").start(SandboxSpec()) as sandbox:
        look = "PATHS = " + repr(json.dumps(files)) + LOOK
        for result in (await sandbox.run_python(look), await sandbox.exec(["python3", "-c", look])):
            print(result.text, result.error_text)
    async with await make_backend("bubblewrap").start(SandboxSpec(read_only=(folders[0],))) as sandbox:
        print((await sandbox.exec(["ls", folders[0]])).text.split())
asyncio.run(main())
"""


def _made(top: Path, *files: str) -> Path:
    for file in files:
        path = top / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    return top


def test_packages_sources_and_what_no_standard_names_are_hidden(tmp_path):
    usr = _made(
        tmp_path / "usr",
        *("bin/python3", "lib/python3/dist-packages/numpy/a.py", "lib/python3.11/os.py", "lib/x86/libc.so.6"),
        *("local/lib/python3.12/site-packages/agentrl/registry.py", "local/lib/python3.12/os.py", "local/bin/tool"),
        *("src/app/env.py", "local/src/app/env.py", "checkout/env.py", "local/venv/lib/python3.12/site-packages/b.py"),
        *("local/lib64/python3.9/site-packages/c.py", "share/python3/site-packages/d.py", "share/games/env.py"),
    )  # fmt: skip
    assert [path.removeprefix(f"{usr}/") for path in hidden([usr], [])] == [
        "checkout",
        "lib/python3/dist-packages",
        "local/lib/python3.12/site-packages",
        "local/lib64/python3.9/site-packages",
        "local/src",
        "local/venv",
        "share/python3/site-packages",
        "src",
    ]
    (usr / "new").mkdir()
    assert f"{usr}/new" in hidden([usr], [])


def test_what_this_process_imports_from_is_hidden_but_never_programs_or_the_standard_library(tmp_path):
    usr = _made(
        tmp_path / "usr",
        *("bin/agentrl", "local/bin/agentrl", "lib/python3.11/os.py", "lib/python3.11/lib-dynload/_ssl.cpython-311.so"),
        *("lib/x86_64-linux-gnu/libc.so.6", "share/project/env.py", "lib/archive.zip"),
    )  # fmt: skip
    usual = ["", "bin", "local/bin", "lib/python3.11", "lib/python3.11/lib-dynload", "lib/x86_64-linux-gnu"]
    asked = [str(usr / name) for name in (*usual, "share/project", "lib/archive.zip", "missing")]
    assert hidden([usr], ["", *asked, str(tmp_path / "elsewhere")]) == [
        str(usr / "lib/archive.zip"),
        str(usr / "share/project"),
    ]


def test_of_an_interpreter_elsewhere_only_programs_and_libraries_are_shown(tmp_path):
    prefix = _made(
        tmp_path / "conda", "bin/python3.12", "lib/python3.12/os.py", "lib/python3.12/site-packages/a.py", "pkgs/a/b.py"
    )
    python = str(prefix / "bin/python3.12")
    assert interpreter_folders(python) == (str(prefix / "bin"), str(prefix / "lib"))
    assert interpreter_folders("/usr/local/bin/python3.12") == ()
    argv = shown(python, (), certificates=False)
    assert argv.index(str(prefix / "lib")) < argv.index(str(prefix / "lib/python3.12/site-packages"))
    assert str(prefix / "pkgs") not in argv


async def test_an_interpreter_elsewhere_runs_without_its_packages():
    real = Path(os.path.realpath("/usr/bin/python3"))
    library = Path("/usr/lib") / real.name
    if not (library / "os.py").exists():
        pytest.skip("this system's Python is not where Debian puts it")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:  # a sandbox has a /tmp of its own
        os.chmod(folder, 0o755)
        prefix = _made(Path(folder), f"lib/{real.name}/site-packages/answers.py", "bin/x")
        shutil.copy(real, prefix / "bin" / real.name)
        left_out = shutil.ignore_patterns("test", "config-*", "__pycache__")
        shutil.copytree(library, prefix / "lib" / real.name, dirs_exist_ok=True, ignore=left_out)
        async with await Bubblewrap(python=str(prefix / "bin" / real.name)).start(SandboxSpec()) as sandbox:
            result = await sandbox.run_python("import sys, json; print(sys.prefix)\nimport answers")
    assert result.text == f"{folder}\n"
    assert "No module named 'answers'" in result.error_text


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount folders below /usr")
def test_an_answer_key_below_usr_is_out_of_reach(tmp_path):
    """With AgentRL installed as root's pip installs it, and with a checkout in /usr/src."""
    candidates = [*Path("/usr").glob("lib*/python3*/*-packages"), *Path("/usr/local/lib").glob("python3*/*-packages")]
    folders = [str(path) for path in (*candidates, Path("/usr/src")) if path.is_dir()]
    if not folders or shutil.which("unshare") is None:
        pytest.skip("no folder below /usr to put packages into")
    shutil.copytree(ROOT / "agentrl", tmp_path / "agentrl", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(Path(lazy_loader.__file__).parent, tmp_path / "lazy_loader")
    program = f"LOOK = {LOOK!r}\n{INSTALLED}"
    done = subprocess.run(
        ["unshare", "--mount", "/usr/bin/python3", "-P", "-c", program, str(tmp_path), *folders],
        cwd="/", env={"PATH": "/usr/sbin:/usr/bin:/bin"}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    seen = [line for line in done.stdout.splitlines() if line.strip()]
    assert seen[:2] == ["[] None", "[] None"], done.stdout + done.stderr
    assert seen[2] == "['agentrl', 'lazy_loader']"  # `read_only` shows what was asked for


def test_a_current_folder_that_was_removed_hides_the_rest_all_the_same(tmp_path, monkeypatch):
    usr = _made(tmp_path / "usr", "lib/python3/dist-packages/numpy/a.py")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    monkeypatch.syspath_prepend("relative")
    gone.rmdir()
    assert hidden([usr]) == [str(usr / "lib/python3/dist-packages")]
