"""What two real processes found, for all tests of ranks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[3]
WORK = "import sys; from tests.learning.parallel.two_ranks import {name}; {name}(int(sys.argv[1]), sys.argv[2])"


def together(name: str, count: int, folder: Path) -> list[Any]:
    """What each of some processes saved, all of which run a function of `two_ranks`."""
    words = [[sys.executable, "-c", WORK.format(name=name), str(rank), str(folder)] for rank in range(count)]
    processes = [subprocess.Popen(word, cwd=ROOT, stderr=subprocess.PIPE, text=True) for word in words]
    try:
        errors = [process.communicate()[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * count, "\n".join(errors)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(count)]


@pytest.fixture(scope="package")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the two processes leave what they found."""
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="package")
def found(place: Path) -> list[dict[str, Any]]:
    """What each of two processes found, in one go: a process takes seconds to begin."""
    return together("work", 2, place)
