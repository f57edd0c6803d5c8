"""A worker process that holds the worlds of tau3, in the Python of the suite's own virtual environment."""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from agentrl.errors import ConfigError, EnvFault, PackageMissing

_FILE = Path(__file__).with_name("world.py")
_TIMEOUT_S = 300.0  # of one request; the first one imports the package
_CHUNK = 1 << 16
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TAU2_DATA_DIR")
"""Variables that the worker gets: no keys of models, which it does not need."""


class Worker:
    """`Worlds` in another process. One request at a time; it ends with this process.

    Args: python: the interpreter of an environment in which tau2-bench is installed.
    """

    def __init__(self, python: str) -> None:
        self.python = python
        self._lock, self._buffer = Lock(), b""
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.end)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return partial(self._ask, name)

    def _ask(self, name: str, *given: Any) -> Any:
        """What a method of `Worlds` returns there. Raises: EnvFault if the process fails, PackageMissing."""
        with self._lock:
            process = self._started()
            try:
                found = self._answer(process, json.dumps([name, given]).encode() + b"\n")
            except (OSError, ValueError) as error:
                self._kill()
                raise EnvFault(f"the worker of tau3 ({self.python}) failed: {error}", who="host") from error
        if "error" not in found:
            return found["value"]
        if found["error"].startswith("ModuleNotFoundError"):
            raise PackageMissing(f"tau2-bench is not installed for {self.python}: {found['error']}")
        raise EnvFault(f"the worker of tau3 could not {name}: {found['error']}", who="author")

    def _answer(self, process: subprocess.Popen[bytes], request: bytes) -> Any:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(request)
        process.stdin.flush()
        until = time.monotonic() + _TIMEOUT_S
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise ValueError(f"no answer within {_TIMEOUT_S:.0f} s")
            read = os.read(process.stdout.fileno(), _CHUNK)
            if not read:
                raise ValueError(f"it ended with exit code {process.wait()}")
            self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
            try:
                self._process = subprocess.Popen(
                    [self.python, str(_FILE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=kept
                )
            except OSError as error:
                raise ConfigError(f"python={self.python!r} cannot be run: {error}") from error
        return self._process

    def _kill(self) -> None:
        process, self._process, self._buffer = self._process, None, b""
        if process is not None:
            process.kill()
            process.wait()
            for end in (process.stdin, process.stdout):
                if end is not None:
                    with suppress(OSError):
                        end.close()

    def end(self) -> None:
        """End the process; the next request starts another one, which knows none of the worlds."""
        with self._lock:
            self._kill()
