"""A vLLM server on this machine: started, waited for, killed, started again. Its log is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from socket import create_server
from types import TracebackType
from typing import Self

_READY_S, _ASK_S, _POLL_S = 600.0, 5.0, 0.5
_SETTINGS = {
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}
# Without chunks: vLLM 0.32 on a CPU ends where a prompt of a turn with a seed is computed in several parts.
_OPTIONS = (
    *("--dtype", "float32", "--logprobs-mode", "processed_logprobs", "--enforce-eager"),
    "--no-enable-chunked-prefill",
)


class VllmProcess:
    """A server in a process group of its own; a context manager that ends it.

    Args:
        python: of the environment that vLLM is installed in.
        model: the folder that it is started with.
        log: file that its output is appended to.
        options: further ones of `vllm.entrypoints.openai.api_server`.
        settings: further environment variables.

    Attributes:
        url: its address, the same after it was started again.
        starts_s: how long each start took, in seconds.
    """

    def __init__(
        self,
        python: Path,
        model: Path,
        log: Path,
        *,
        options: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
    ) -> None:
        with create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url, self._log = f"http://127.0.0.1:{port}", log
        where = ("--model", str(model), "--host", "127.0.0.1", "--port", str(port))
        # `-I`: no folder of the caller is on the path of that environment.
        self._command = [str(python), "-I", "-m", "vllm.entrypoints.openai.api_server", *where, *_OPTIONS, *options]
        # Its engine is a process that asks for tools of its own environment.
        path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
        self._settings = {**os.environ, **_SETTINGS, **(settings or {}), "PATH": path}
        self._process: subprocess.Popen[bytes] | None = None
        self.starts_s: list[float] = []

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it and wait until it answers. Raises: RuntimeError if it ends or does not answer."""
        since = time.monotonic()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self._settings, start_new_session=True
            )
        while not self._answers("/health"):
            if self._process.poll() is not None or time.monotonic() - since > _READY_S:
                raise RuntimeError(f"vLLM did not start; its log is {self._log}")
            time.sleep(_POLL_S)
        self.starts_s.append(time.monotonic() - since)
        print(f"vLLM answers after {self.starts_s[-1]:.0f} s", file=sys.stderr, flush=True)

    def kill(self) -> None:
        """SIGKILL to the server and its engine."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def samples(self) -> bool:
        """Whether it is sampling a turn."""
        lines = self._answers("/metrics").splitlines()
        return any(line.startswith("vllm:num_requests_running") and float(line.split()[-1]) > 0 for line in lines)

    def _answers(self, path: str) -> str:
        """The body of an answer (a space if it is empty); nothing if there is none."""
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=_ASK_S) as answer:
                return answer.read().decode() or " "
        except (urllib.error.URLError, OSError):
            return ""
