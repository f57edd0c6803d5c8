"""The process that runs SQL statements: it is ended where one takes too long or too much."""

from __future__ import annotations

import asyncio
import os
import resource
import select
import signal
import subprocess
import sys

import pytest

from agentrl.errors import EnvFault, ToolError
from agentrl.tools.sql import SqlDatabase, SqlLimits
from agentrl.tools.sqlite import process
from tests.tools.conftest import SETUP

LONG = "(SELECT replace(hex(zeroblob(49000)), '00', 'a') h, replace(hex(zeroblob(24000)), '00', 'a') || 'b' n)"
PATTERN = (
    "(SELECT replace(hex(zeroblob(49000)), '00', 'a') h, '{0}' || replace(hex(zeroblob(400)), '00', 'a') || 'b{0}' p)"
)
SLOW = {
    "instr": f"SELECT {', '.join(['instr(h, n)'] * 1000)} FROM {LONG}",
    "replace": f"SELECT {', '.join(['length(replace(h, n, 1))'] * 1000)} FROM {LONG}",
    "LIKE": f"SELECT {', '.join(['h LIKE p'] * 1000)} FROM {PATTERN.format('%')}",
    "GLOB": f"SELECT {', '.join(['h GLOB p'] * 1000)} FROM {PATTERN.format('*')}",
    "sorting": "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT (x * 1103515245 + 12345) % 2147483648 FROM c"
    " LIMIT 9000000) SELECT x FROM c ORDER BY hex(zeroblob(2000)) || x",
    "distinct": "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
    " SELECT count(DISTINCT x || hex(zeroblob(49000))) FROM c",
    "union": "WITH RECURSIVE c(x, z) AS (SELECT 1, zeroblob(90000) UNION SELECT x + 1, zeroblob(90000) FROM c)"
    " SELECT count(*) FROM c",
}
WIDE = {
    "blobs": f"SELECT {', '.join(['zeroblob(99999)'] * 1990)}",
    "texts": f"SELECT {', '.join(['quote(zeroblob(40000))'] * 1500)}",
}


@pytest.mark.parametrize("statement", SLOW.values(), ids=SLOW)
def test_a_statement_that_is_slow_within_one_instruction_is_ended(statement, monkeypatch):
    """The process that runs it is killed: these take 7 to 60 s of processor time, between two looks at the clock."""
    monkeypatch.setattr(process, "_GRACE_S", 0.5)
    with SqlDatabase(setup=SETUP, limits=SqlLimits(timeout_s=0.5, max_steps=10**12)) as database:
        with pytest.raises(ToolError, match=r"took longer than|too much memory"):
            database.query(statement)
        assert database.query("SELECT count(*) FROM item") == "count(*)\n3"


@pytest.mark.parametrize("form", ["table", "json"])
@pytest.mark.parametrize("statement", WIDE.values(), ids=WIDE)
def test_one_row_cannot_fill_the_memory(readable, statement, form):
    readable.query("SELECT 1")  # the process that runs statements is not counted below
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ToolError, match=r"too large|too much memory"):
        readable.query(statement, form)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10


def test_a_database_cannot_grow_without_bound(tmp_path):
    limits = SqlLimits(max_memory_bytes=16 << 20)
    rows = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 50)"
    rows += " INSERT INTO t SELECT zeroblob(90000) FROM c"
    for path in (":memory:", tmp_path / "grown.db"):
        with SqlDatabase(path, setup="CREATE TABLE t (x)", writable=True, limits=limits) as database:
            said = ""
            for _ in range(12):
                try:
                    said = database.query(rows)
                except ToolError as error:
                    said = str(error)
            if path == ":memory:":
                assert "full" in said
                assert len(database.save()) <= 16 << 20
            assert database.query("SELECT count(*) FROM t").splitlines()[1] != "0"


def test_no_file_of_temporary_values_is_written(readable):
    process._end_all()
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_oublock
    with pytest.raises(ToolError, match="too much memory"):
        readable.query(SLOW["union"])
    process._end_all()  # so that its use is counted
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_oublock - before < 1000


def test_a_write_that_ends_its_process_changes_nothing(writable, monkeypatch):
    monkeypatch.setattr(process, "_GRACE_S", 0.2)
    slow = f"UPDATE item SET price = (SELECT {' + '.join(['instr(h, n)'] * 300)} FROM {LONG})"
    with SqlDatabase(setup=SETUP, writable=True, limits=SqlLimits(timeout_s=0.2)) as database:
        assert database.query("UPDATE item SET price = 4 WHERE id = 1") == "1 rows changed"
        with pytest.raises(ToolError, match="took longer"):
            database.query(slow)
        assert database.execute_trusted("SELECT price FROM item") == [(4.0,), (7.0,), (1.0,)]
        assert database.query("SELECT price FROM item WHERE id = 1") == "price\n4.0"


def test_both_sides_see_each_others_changes(writable):
    writable.query("INSERT INTO item VALUES (4, 'cap', 1)")
    assert writable.execute_trusted("SELECT count(*) FROM item") == [(4,)]
    writable.execute_trusted("CREATE TABLE more (x)")
    writable.execute_trusted("WITH n(x) AS (VALUES (1), (2)) INSERT INTO more SELECT x FROM n")
    assert writable.query("SELECT count(*) FROM more") == "count(*)\n2"
    writable.query("DELETE FROM more WHERE x = 1")
    saved = writable.save()
    writable.query("DELETE FROM more")
    writable.load(saved)
    assert writable.query("SELECT x FROM more") == "x\n2"


def test_a_process_that_dies_is_the_statements_doing_only_if_others_run(readable, monkeypatch):
    def die(worker, request, wait_s, ask=process._Worker.ask):
        if "SELECT 7" in request:
            worker._process.kill()
            worker._process.wait()
        return ask(worker, request, wait_s)

    monkeypatch.setattr(process._Worker, "ask", die)
    with pytest.raises(ToolError, match="ended the process"):
        readable.query("SELECT 7")
    assert readable.query("SELECT 8") == "8\n8"
    monkeypatch.setattr(process._Worker, "ask", lambda worker, *_: die(worker, ("SELECT 7",), 1.0))
    with pytest.raises(EnvFault, match="does not run statements"):
        readable.query("SELECT 8")


async def test_the_event_loop_goes_on_while_a_statement_runs(monkeypatch):
    monkeypatch.setattr(process, "_GRACE_S", 0.2)
    with SqlDatabase(limits=SqlLimits(timeout_s=0.2)) as database:
        running = asyncio.create_task(database.aquery(SLOW["instr"]))
        turns = 0
        while not running.done():
            await asyncio.sleep(0)
            turns += 1
        with pytest.raises(ToolError, match="took longer"):
            await running
        assert turns > 10


def test_a_file_is_changed_where_it_is(tmp_path):
    path = tmp_path / "shop.db"
    with SqlDatabase(path, setup=SETUP, writable=True) as database:
        database.query("DELETE FROM item WHERE id > 1")
        assert database.execute_trusted("SELECT count(*) FROM item") == [(1,)]
    with SqlDatabase(path) as database:
        assert database.query("SELECT name FROM item") == "name\ntea"
        with pytest.raises(ToolError, match="not allowed"):
            database.query("DELETE FROM item")


def test_an_owner_that_is_killed_leaves_no_process():
    program = f"""
from agentrl.tools.sql import SqlDatabase, SqlLimits
from agentrl.tools.sqlite import process
def told(worker, wait_s, read=process._Worker._read):
    print(worker._process.pid, flush=True)
    return read(worker, wait_s)
process._Worker._read = told
SqlDatabase(limits=SqlLimits(timeout_s=60)).query({SLOW["GLOB"]!r})
"""
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    _, second = owner.stdout.readline(), owner.stdout.readline()  # it has started; a statement has been sent to it
    worker = os.pidfd_open(int(second))
    owner.kill()
    owner.wait()
    owner.stdout.close()
    poll = select.poll()
    poll.register(worker, select.POLLIN)
    ended = poll.poll(10_000)  # a pidfd is readable when its process has ended
    if not ended:
        signal.pidfd_send_signal(worker, signal.SIGKILL)
    os.close(worker)
    assert ended
