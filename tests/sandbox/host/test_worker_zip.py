"""The zip file that a sandbox's Python starts holds the whole worker, and nothing else of ours."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from agentrl.sandbox import worker
from agentrl.sandbox.host.worker_zip import worker_zip


def test_the_zip_holds_every_file_of_the_worker():
    sources = {path.name for path in Path(worker.__file__).parent.glob("*.py")}
    names = zipfile.ZipFile(io.BytesIO(worker_zip())).namelist()
    packed = {name.removeprefix("agentrl/sandbox/worker/") for name in names}
    assert {"main.py", "sessions.py", "programs.py"} <= sources
    assert packed == sources | {"agentrl/__init__.py", "agentrl/sandbox/__init__.py"}
