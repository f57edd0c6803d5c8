"""`agentrl conform` on four bundled environments, with every external package in an installation of its own.

    python benchmarks/conform.py [--tools .venv-conform] [--out runs/conform] [--envs agentrl/Shop-v0,...]
    python benchmarks/conform.py --table         (print what is finished)
    .ci/with-docker python benchmarks/conform.py --base debian [--doors dockerfile]

The Dockerfile's image needs a docker daemon. It is built on `--base IMAGE`; `debian` makes one from Debian packages,
where no registry is reached (`conform_base.sh`).

Needs Python 3.11 and 3.12, npm, and about 3 GB of disk. Every installation and every environment is done once: a second
call goes on where the first was cut off, and tries again the doors that failed or did not run. A package that cannot be
installed is told, and its doors are "not run".
Exit code 1 if a door failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from agentrl.conform.conform import DOORS  # noqa: E402
from agentrl.conform.image import WHEELS  # noqa: E402
from agentrl.conform.tools import EXTERNAL, External, install_commands  # noqa: E402

ENVS = ("agentrl/Shop-v0", "agentrl/Guess-v0", "agentrl/LoanDesk-v0", "agentrl/FunctionSynthesis-v0")
_AT_ONCE = 4
"""Doors between two looks at what is finished."""
_DEBIAN = "agentrl-python:3.11"
_OWN = f"{shlex.quote(str(ROOT))}'[serve,mcp,openenv]' -c {shlex.quote(str(ROOT / 'constraints.txt'))}"


def is_there(tools: Path, name: str, found: External) -> bool:
    """Whether a package is installed in its version."""
    package = found.packages[0]
    if found.is_npm:
        title, _, version = package.rpartition("@")
        about = tools / name / "node_modules" / title / "package.json"
        return about.exists() and json.loads(about.read_text())["version"] == version
    title, _, version = package.partition("==")
    code = f"import importlib.metadata as m, sys; sys.exit(m.version({title!r}) != {version!r})"
    more = "; import agentrl" if found.needs_agentrl else ""
    return run_python(tools / name, code + more)


def run_python(folder: Path, code: str) -> bool:
    python = folder / "bin" / "python"
    # Where no folder is called `agentrl`, as in `conformed`.
    return (
        python.exists()
        and not subprocess.run([python, "-c", code], capture_output=True, check=False, cwd=folder).returncode
    )


def python_of(version: str) -> str:
    """A Python of a version: on the path, or of pyenv."""
    name = f"python{version}"
    found = sorted(
        Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions").glob(f"{version}.*/bin/{name}")
    )
    return str(found[-1]) if found else name


def install(tools: Path) -> None:
    """All packages that are missing."""
    tools.mkdir(parents=True, exist_ok=True)
    for name, found in EXTERNAL.items():
        if is_there(tools, name, found):
            continue
        commands = install_commands(name, str(tools), f"-e {shlex.quote(str(ROOT))}'[viewer]'")
        if found.python:
            commands[0] = commands[0].replace(f"python{found.python}", python_of(found.python), 1)
        told(name, commands)
    if not run_python(tools / "agentrl", "import agentrl, torch, mcp, websockets"):
        place = shlex.quote(str(tools / "agentrl"))
        own = [f"{shlex.quote(sys.executable)} -m venv {place}", f"{place}/bin/python -m pip install -e {_OWN}"]
        told("agentrl", own)


def told(name: str, commands: list[str]) -> None:
    for command in commands:
        print(f"{name}: {command}", flush=True)
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name} was not installed: {(done.stderr or done.stdout).strip()[-300:]}", flush=True)
            return


def wheel(tools: Path) -> None:
    """The wheel of this repository, for the Dockerfile's image."""
    folder = tools / WHEELS
    shutil.rmtree(folder, ignore_errors=True)
    told("wheel", [f"{shlex.quote(sys.executable)} -m pip wheel --no-deps -w {shlex.quote(str(folder))} {ROOT}"])


def base_image(name: str) -> str:
    """The image that the Dockerfile's is built on; `debian` is made first if it is not there."""
    if name != "debian":
        return name
    if subprocess.run(["docker", "image", "inspect", _DEBIAN], capture_output=True, check=False).returncode:
        told("base", [f"bash {shlex.quote(str(ROOT / 'benchmarks' / 'conform_base.sh'))} {_DEBIAN}"])
    return _DEBIAN


def conformed(tools: Path, out: Path, env: str, options: argparse.Namespace) -> None:
    """One environment, some doors at a time. Doors that were green, or do not apply, are not tried again."""
    file = out / f"{env.replace('/', '-')}.json"
    out.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"env": env, "doors": {}, "seconds": 0}
    if file.exists():
        report = json.loads(file.read_text())
    wanted = options.doors.split(",") if options.doors else DOORS
    left = [name for name in wanted if report["doors"].get(name, {}).get("outcome") not in ("green", "does not apply")]
    for begin in range(0, len(left), _AT_ONCE):
        began = time.monotonic()
        names = left[begin : begin + _AT_ONCE]
        command = [str(tools / "agentrl" / "bin" / "python"), "-m", "agentrl", "conform", env, "--json"]
        command += ["--tools", str(tools), "--episodes", str(options.episodes)]
        command += ["--base", options.base] if options.base else []
        command += [word for name in names for word in ("--door", name)]
        # Where no folder is called `agentrl`, which would stand before the installed package.
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=out)
        try:
            found = json.loads(done.stdout)
        except ValueError:
            found = {}
        if "doors" not in found:
            print(f"{env}: {done.stderr.strip()[-500:]}", flush=True)
            return
        report["doors"] |= {door["name"]: door for door in found["doors"]}
        report["seconds"] += round(time.monotonic() - began)
        file.write_text(json.dumps(report, indent=1))


def printed(out: Path, envs: list[str]) -> bool:
    """Print the table of what is finished. Returns: whether no door failed and all are finished."""
    files = [out / f"{env.replace('/', '-')}.json" for env in envs]
    reports: list[dict[str, Any]] = [json.loads(file.read_text()) for file in files if file.exists()]
    print("| door | " + " | ".join(report["env"] for report in reports) + " |")
    print("|---|" + "---|" * len(reports))
    details: list[str] = []
    for name in DOORS:
        doors = [report["doors"].get(name, {"outcome": "not tried", "detail": ""}) for report in reports]
        print(f"| {name} | " + " | ".join(door["outcome"] for door in doors) + " |")
        first = {door["outcome"]: door["detail"] for door in reversed(doors) if door["detail"]}
        details += [f"- {name}, {outcome}: {detail}" for outcome, detail in first.items()]
    print("\nWhat each door said, where environments differ the first of them:\n")
    print("\n".join(details))
    outcomes = [report["doors"].get(name, {}).get("outcome") for report in reports for name in DOORS]
    return len(reports) == len(envs) and None not in outcomes and "failed" not in outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", type=Path, default=ROOT / ".venv-conform")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "conform")
    parser.add_argument("--envs", default=",".join(ENVS))
    parser.add_argument("--episodes", type=int, default=4)
    parser.add_argument("--doors", default="", help="only these, comma-separated")
    parser.add_argument("--base", default="", help="image on which the Dockerfile's is built; debian: one made here")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    envs = options.envs.split(",")
    if not options.table:
        tools = options.tools.absolute()
        install(tools)
        wheel(tools)
        options.base = base_image(options.base)
        for env in envs:
            conformed(tools, options.out, env, options)
    sys.exit(0 if printed(options.out, envs) else 1)


if __name__ == "__main__":
    main()
