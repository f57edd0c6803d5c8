"""`agentrl serve` as a process of its own, for the doors that lead there."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_START_S = 600  # importing a framework takes minutes on a busy machine


@contextmanager
def serving(command: Sequence[str], folder: Path, address: str = "") -> Iterator[tuple[str, str]]:
    """Run a command that serves an environment. Gives: its URL and token.

    Args:
        command: prints the URL.
        folder: in which it runs.
        address: where it is reached, if not at the URL that it prints.
    Raises: RuntimeError if it ends first; TimeoutError.
    """
    token, output = secrets.token_urlsafe(16), folder / f"output-{secrets.token_hex(4)}"
    with output.open("wb") as written:
        environment = {**os.environ, "AGENTRL_ENV_TOKEN": token}
        process = subprocess.Popen(command, stdout=written, stderr=subprocess.STDOUT, cwd=folder, env=environment)
    try:
        printed = _url(process, output)
        yield address or printed, token
    finally:
        process.terminate()
        process.wait(timeout=60)


def toml_of(value: Any) -> str:
    """A value as `--kwarg` reads it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml_of(one)}" for key, one in value.items()) + "}"
    return json.dumps(value)


def _url(process: subprocess.Popen[bytes], output: Path) -> str:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        text = output.read_text(errors="replace")
        found = re.search(r"http://(127\.0\.0\.1|0\.0\.0\.0):\d+(?=\D)", text)
        if found is not None:
            return found[0]
        if process.poll() is not None:
            raise RuntimeError(f"agentrl serve ended: {text.strip()[-300:]}")
        time.sleep(0.2)
    raise TimeoutError(f"agentrl serve printed no URL within {_START_S} s")
