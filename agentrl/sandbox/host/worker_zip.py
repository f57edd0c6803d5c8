"""The worker's program as one zip file, which a sandbox's own Python starts. Owns its content and its environment."""

from __future__ import annotations

import functools
import io
import zipfile
from pathlib import Path

_WORKER = Path(__file__).parents[1] / "worker"

WORKER_ENV = {"LD_BIND_NOW": "1", "PYTHONHASHSEED": "0"}
"""Variables of a worker: it resolves all symbols at start, else each fork would do so again; and the order of sets is
the same in every run, so that an episode can be replayed."""
WORKER_OPTIONS = ("-s", "-B")
"""Options of its interpreter: no folder of its user, no bytecode files. `-I` would also ignore the seed of hashes."""


@functools.cache
def worker_zip() -> bytes:
    """The zip file: `python worker.zip CONTROL_FD OWNER_FD` serves one owner."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for package in ("agentrl", "agentrl/sandbox"):
            archive.writestr(f"{package}/__init__.py", "")
        for path in sorted(_WORKER.glob("*.py")):
            if path.name == "__main__.py":
                archive.writestr("__main__.py", path.read_bytes())
            else:
                archive.writestr(f"agentrl/sandbox/worker/{path.name}", path.read_bytes())
    return buffer.getvalue()
