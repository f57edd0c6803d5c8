"""Memory that libraries keep: the bound on prepared products, and the return of freed blocks."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from agentrl.policy import model_folder
from agentrl.policy.engine.scheduler import Engine
from agentrl.policy.kept_memory import FreedMemory, limit_prepared_products
from agentrl.policy.tiny import build_tiny

NAMES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "DNNL_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc returns memory on request")

# Blocks too small to be mapped apart, freed below one that stays: the C library keeps them without being asked.
HOLE = """
from agentrl.policy.kept_memory import FreedMemory
import os
def resident_mib():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
blocks = [bytes(100_000) for _ in range(1000)]
last = bytes(100_000)
del blocks
before = resident_mib()
print(FreedMemory().give_back(), before - resident_mib())
"""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that it is as before at the end, whatever the code sets
        monkeypatch.delenv(name)
    return monkeypatch


def test_both_caches_are_bounded(environment: pytest.MonkeyPatch) -> None:
    limit_prepared_products()
    assert (os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"], os.environ["LRU_CACHE_CAPACITY"]) == ("128", "128")


@pytest.mark.parametrize("name", NAMES)
def test_what_the_environment_says_stays(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.setenv(name, "7")
    limit_prepared_products()
    assert os.environ[name] == "7"
    if name.startswith("DNNL"):
        assert "ONEDNN_PRIMITIVE_CACHE_CAPACITY" not in os.environ


def test_every_model_folder_gets_the_bound(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, tokenizer = build_tiny(["a few words"], seed=0)
    model_folder.load(model_folder.save(tmp_path / "model", model, tokenizer))
    assert os.environ["LRU_CACHE_CAPACITY"] == "128"


@GLIBC
def test_freed_memory_goes_back_to_the_system() -> None:
    found = subprocess.run([sys.executable, "-c", HOLE], capture_output=True, text=True, check=True).stdout.split()
    assert found[0] == "True"
    assert float(found[1]) > 50


@GLIBC
def test_memory_is_not_given_back_at_every_call() -> None:
    now = [0.0]
    freed = FreedMemory(lambda: now[0])
    assert [freed.give_back(), freed.give_back()] == [True, False]
    now[0] = 5.0
    assert freed.give_back()


def test_an_engine_that_forgets_gives_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(FreedMemory, "give_back", lambda self: asked.append(True))
    model, tokenizer = build_tiny(["a few words"], seed=0)
    Engine(model, stop_ids=frozenset({0}), decode=tokenizer.decode).forget()
    assert asked == [True]
