"""The file of verdicts: bounded, versioned, shared, and never written over something else."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agentrl.errors import ConfigError
from agentrl.rollout.judging.cache import VerdictCache


def test_a_verdict_outlives_the_process_that_asked(tmp_path: Path):
    path = tmp_path / "new" / "verdicts.sqlite"
    with VerdictCache(path) as cache:
        assert cache.get("a") is None
        cache.put("a", 0.1 + 0.2, "né\u2028")
    with VerdictCache(path) as cache, VerdictCache(path) as other:
        assert cache.get("a") == (0.1 + 0.2, "né\u2028")
        other.put("b", 1.0, "")
        assert cache.get("b") == (1.0, "")


def test_it_is_bounded_and_keeps_what_was_used_last(tmp_path: Path):
    with VerdictCache(tmp_path / "v.sqlite", max_verdicts=10) as cache:
        for number in range(10):
            cache.put(str(number), number, "")
        assert cache.get("0") == (0.0, "")
        cache.put("new", 1.0, "")
        assert len(cache) == 9
        assert [key for key in (*map(str, range(10)), "new") if cache.get(key)] == ["0", *"3456789", "new"]
        for number in range(1000):
            cache.put(f"more {number}", 0.0, "")
            assert len(cache) <= 10


def test_nothing_is_made_before_it_is_used(tmp_path: Path):
    cache = VerdictCache(tmp_path / "folder" / "v.sqlite")
    cache.close()
    assert list(tmp_path.iterdir()) == []


def test_verdicts_of_another_version_are_not_used(tmp_path: Path):
    path = tmp_path / "v.sqlite"
    with VerdictCache(path) as cache:
        cache.put("a", 1.0, "")
    file = sqlite3.connect(path)
    file.execute("PRAGMA user_version = 99")
    file.commit()
    file.close()
    with VerdictCache(path) as cache:
        assert cache.get("a") is None


def test_a_file_of_something_else_is_refused_and_stays(tmp_path: Path):
    text, database = tmp_path / "notes.txt", tmp_path / "mine.sqlite"
    text.write_text("my notes, which are no database at all\n" * 100)
    file = sqlite3.connect(database)
    file.execute("CREATE TABLE verdicts (mine TEXT)")
    file.commit()
    file.close()
    with pytest.raises(ConfigError, match="cannot hold verdicts"):
        VerdictCache(text).get("a")
    with pytest.raises(ConfigError, match="is a database of something else"):
        VerdictCache(database).get("a")
    with pytest.raises(ConfigError, match="cannot hold verdicts"):
        VerdictCache(text / "below").get("a")
    assert text.read_text().startswith("my notes")
    assert sqlite3.connect(database).execute("SELECT * FROM verdicts").fetchall() == []
    with pytest.raises(ValueError, match="at least 1"):
        VerdictCache(max_verdicts=0)


def test_a_file_that_fails_later_costs_a_verdict_and_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "v.sqlite"
    with VerdictCache(path) as cache:
        cache.put("a", 1.0, "")
        file = sqlite3.connect(path)
        file.execute("DROP TABLE verdicts")
        file.commit()
        file.close()
        assert cache.get("a") is None
        cache.put("b", 1.0, "")
    assert [record.message.split(":")[1] for record in caplog.records] == [
        " verdicts are not remembered (no such table"
    ]


def test_two_that_make_the_file_at_the_same_time_share_it(tmp_path: Path):
    caches = [VerdictCache(tmp_path / "v.sqlite") for _ in range(8)]

    def use(number: int) -> None:
        caches[number].put(str(number), number, "")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(use, range(8)))
    assert [caches[0].get(str(number)) for number in range(8)] == [(number, "") for number in range(8)]
    for cache in caches:
        cache.close()
