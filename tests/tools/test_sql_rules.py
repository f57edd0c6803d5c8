"""What a statement may say, and how its result reads."""

from __future__ import annotations

import resource

import pytest

from agentrl.errors import ToolError
from agentrl.tools.sql import SqlDatabase, SqlLimits
from agentrl.tools.sqlite import process, worker
from tests.tools.conftest import SETUP


def test_the_schema_can_be_read_and_not_changed(readable, writable):
    assert "CREATE TABLE item" in readable.query("SELECT sql FROM sqlite_master")
    for statement in ("SAVEPOINT a", "DETACH main", "ANALYZE", "UPDATE sqlite_master SET sql = ''", "VACUUM"):
        with pytest.raises(ToolError):
            writable.query(statement)
    assert writable.query("REINDEX") == "0 rows changed"
    assert writable.query("DELETE FROM item WHERE id = 1 RETURNING id, name") == "id | name\n1 | tea"


def test_a_cell_keeps_to_its_line(readable):
    text = readable.query("SELECT 'a' || char(10, 13) || 'Error: ok' AS x, 1 -- note")
    assert text.split("\n") == ["x | 1 -- note", "a \rError: ok | 1"]


ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"


@pytest.mark.parametrize("where", ["memory", "file"])
@pytest.mark.parametrize(
    "statement",
    [
        f"{ENDLESS} SELECT x FROM c ORDER BY hex(zeroblob(2000)) || x",
        f"{ENDLESS} SELECT x, count(*) FROM c GROUP BY x || hex(zeroblob(1000))",
        f"{ENDLESS} SELECT row_number() OVER (ORDER BY hex(zeroblob(1000)) || x) FROM c",
        f"{ENDLESS}, m AS MATERIALIZED (SELECT hex(zeroblob(20000)) h FROM c) SELECT count(*) FROM m",
    ],
    ids=["ORDER BY", "GROUP BY", "window", "materialized"],
)
def test_what_is_sorted_goes_into_no_file(tmp_path, where, statement):
    path = ":memory:" if where == "memory" else tmp_path / "shop.db"
    process._end_all()
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_oublock
    with SqlDatabase(path, setup=SETUP, writable=True, limits=SqlLimits(max_steps=10**12)) as database:
        with pytest.raises(ToolError, match="too much memory"):
            database.query(statement)
        assert database.query("SELECT count(*) FROM item") == "count(*)\n3"
    process._end_all()  # so that its use is counted
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_oublock - before < 1000


def test_files_of_the_process_are_bounded_whatever_writes_them(tmp_path):
    """A SQLite that was built to sort in files would write them here."""
    path, block = tmp_path / "sorted", bytes(1 << 20)
    with worker._bounded(1 << 20, None), path.open("wb", buffering=0) as file:
        file.write(block)
        with pytest.raises(OSError, match="too large"):
            file.write(b"x")
    path.write_bytes(block + b"x")


def test_what_is_known_of_databases_does_not_grow():
    process._end_all()
    for number in range(200):
        with SqlDatabase(setup="CREATE TABLE t (x)", writable=True) as database:
            database.query(f"INSERT INTO t VALUES ({number})")
            assert database.query("SELECT x FROM t") == f"x\n{number}"
    assert len(process._idle) == 1
    assert len(process._idle[0].held) <= 64


def test_a_process_that_is_interrupted_at_its_start_leaves_nothing_open(monkeypatch):
    """Ctrl-C while the first statement waits for its process."""
    process._end_all()
    started = []

    def interrupted(made, wait_s):
        started.append(made._process)
        raise KeyboardInterrupt

    monkeypatch.setattr(process._Worker, "_read", interrupted)
    with SqlDatabase(setup=SETUP) as database, pytest.raises(KeyboardInterrupt):
        database.query("SELECT 1")
    assert started[0].poll() is not None
    assert started[0].stdin.closed
