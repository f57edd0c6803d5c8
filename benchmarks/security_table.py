"""The table of attacks in docs/security.md: every probe, on bubblewrap and docker, as root and as an ordinary user.

    python benchmarks/security_table.py [--topic kernel] [--out table.md]              bubblewrap
    .ci/with-docker python benchmarks/security_table.py --docker [...]                 bubblewrap and docker

Run it as root: the probes run as root, then as a user without an account and without control groups, by setpriv and
/usr/bin/python3 with a copy of AgentRL that this user can read. The attacks are hostile: run it on a machine that you
can afford to lose. Exits with 1 if an attack is not contained, and prints what happened.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

USER = 65534
PYTHON = "/usr/bin/python3"
DOCKER_SOCKET = Path("/var/run/docker.sock")
PACKAGES = ("agentrl", "lazy_loader", "docker", "requests", "urllib3", "idna", "certifi", "charset_normalizer")
"""What the probes import, docker's client for Python included."""


def run_here(backend: str, topics: list[str]) -> dict[str, list[str]]:
    """Run the probes as this user: topic and name -> claim, and what went wrong."""
    from agentrl.sandbox import make_backend
    from agentrl.sandbox.conformance.check_sandbox import TOPICS, check_sandbox

    logging.disable(logging.CRITICAL)
    wanted = topics or [topic for topic in TOPICS if topic != "contract"]
    report = asyncio.run(check_sandbox(make_backend(backend), topics=wanted))
    return {f"{result.topic}: {result.name}": [result.claim, result.failure] for result in report.results}


def run_as(user: int, backend: str, topics: list[str], folder: Path) -> dict[str, list[str]]:
    """Run the probes in a process of a user; `folder` holds a copy of what they import."""
    command = [__file__, "--here", backend, *(word for topic in topics for word in ("--topic", topic))]
    if user == os.getuid():
        argv, env = [sys.executable, *command], dict(os.environ)
    else:
        groups = [f"--groups={DOCKER_SOCKET.stat().st_gid}"] if backend == "docker" else ["--clear-groups"]
        copied = shutil.copy(__file__, folder)
        argv = ["setpriv", "--reuid", str(user), "--regid", str(user), *groups, PYTHON, copied, *command[1:]]
        env = {"PATH": os.defpath, "PYTHONPATH": str(folder), "HOME": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, cwd="/")
    if not done.stdout:
        sys.exit(f"the probes of {backend} as user {user} did not run: {done.stderr[-2000:]}")
    results: dict[str, list[str]] = json.loads(done.stdout)
    return results


def copy_packages(folder: Path) -> None:
    """Copy what the probes import to where any user can read it."""
    folder.chmod(0o755)
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            source = Path(spec.origin).parent
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))


def table(columns: dict[str, dict[str, list[str]]]) -> str:
    """The results as a table of the page."""
    first = next(iter(columns.values()))
    lines = [f"| attack | what must hold | {' | '.join(columns)} |", f"|{'---|' * (2 + len(columns))}"]
    for name, (claim, _) in first.items():
        words = [_word(name, results[name][1]) for results in columns.values()]
        lines.append(f"| {name} | {claim} | {' | '.join(words)} |")
    return "\n".join(lines)


def _word(name: str, failure: str) -> str:
    if failure:
        return "NOT CONTAINED"
    return "it does" if name == "network: allowed host" else "contained"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docker", action="store_true", help="run them on docker too")
    parser.add_argument("--topic", action="append", default=[], help="only these topics")
    parser.add_argument("--out", type=Path, help="write the table to this file too")
    parser.add_argument("--here", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(run_here(options.here, options.topic)))
        return
    if os.getuid() != 0:
        sys.exit("run this as root: it runs the probes as root, then as an ordinary user")
    columns = {}
    with tempfile.TemporaryDirectory() as name:
        copy_packages(Path(name))
        for backend in ("bubblewrap", "docker") if options.docker else ("bubblewrap",):
            for who, user in (("root", 0), ("user", USER)):
                columns[f"{backend}, {who}"] = run_as(user, backend, options.topic, Path(name))
    text = table(columns)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    failures = [
        f"{column}: {name}: {why}" for column, all_ in columns.items() for name, (_, why) in all_.items() if why
    ]
    if failures:
        sys.exit("\n".join(["", "not contained:", *failures]))


if __name__ == "__main__":
    main()
