"""`agentrl serve-model` in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serving(words: Sequence[str], folder: Path | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and its URL once it has said it. Args: words: of the command; folder: to run it in."""
    command = [sys.executable, "-m", "agentrl", *words, "--port", "0", "--json"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        text = ""
        while not text.endswith("}\n"):
            line = process.stdout.readline()
            assert line, process.communicate()
            text += line
        yield process, json.loads(text)["url"]
    finally:
        process.kill()
        process.communicate()
