"""The store survives crashes and full disks, and is read line by line."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest

from agentrl.errors import StoreError
from agentrl.rollout.store import TrajectoryStore, write_summary
from tests.rollout.stored import filled, trajectory


def test_what_goes_in_comes_out(path):
    filled(path, 5)
    assert list(TrajectoryStore(path)) == [trajectory(n) for n in range(5)]
    assert path.read_bytes().count(b"\n") == 5


def test_a_line_is_readable_as_soon_as_append_returns_and_appends_go_on_after_close(path):
    with TrajectoryStore(path) as store:
        for number in range(3):
            store.append(trajectory(number))
            assert len(list(TrajectoryStore(path))) == number + 1
    store.append(trajectory(3))
    store.close()
    assert [t.seed for t in store] == [0, 1, 2, 3]


def test_filters(path):
    store = TrajectoryStore(path)
    kinds = [("terminated", "train"), ("fault", "train"), ("truncated", "eval"), ("terminated", "eval")]
    for number, (status, stage) in enumerate(kinds):
        store.append(trajectory(number, status=status, stage=stage))
    assert [t.seed for t in store.read(stage="eval")] == [2, 3]
    assert [t.seed for t in store.read(status="terminated")] == [0, 3]
    assert [t.seed for t in store.read(group_id="g0", status="fault")] == [1]
    assert [number for number, _ in store.records()] == [1, 2, 3, 4]


def test_reading_is_lazy(path):
    filled(path, 3)
    with path.open("ab") as file:
        file.write(b"{broken}\n")
    reader = iter(TrajectoryStore(path))
    assert [next(reader).seed for _ in range(3)] == [0, 1, 2]
    with pytest.raises(StoreError, match="line 4: is not a JSON object"):
        next(reader)


def test_every_torn_end_is_tolerated_and_cut_off_by_the_next_append(path):
    filled(path, 2)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in (*range(first, len(whole), 13), len(whole) - 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        only_the_newline_is_missing = cut == len(whole) - 1
        seen = [0, 1] if only_the_newline_is_missing else [0]
        assert [t.seed for t in TrajectoryStore(path)] == seen, cut
        with TrajectoryStore(path) as store:
            assert store.position == first
            store.append(trajectory(9))
        assert [t.seed for t in TrajectoryStore(path)] == [*seen, 9], cut


def test_a_torn_end_longer_than_a_block(path):
    filled(path, 1)
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(b'{"env_id": "' + b"x" * 200_000)
    store = TrajectoryStore(path)
    assert store.position == size
    store.append(trajectory(1))
    assert [t.seed for t in store] == [0, 1]


def test_a_store_of_one_torn_line_starts_afresh(path):
    path.parent.mkdir()
    path.write_bytes(b'{"env_id"')
    store = TrajectoryStore(path)
    assert list(store) == []
    store.append(trajectory(4))
    assert [t.seed for t in store] == [4]


@pytest.mark.parametrize("bad", [b"{", b"\x00\x00\x00", b"[1, 2]", b"", b"\xff\xfe"])
def test_a_broken_line_in_the_middle_is_named(path, bad):
    filled(path, 3)
    lines = path.read_bytes().split(b"\n")
    lines[1] = bad
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(
        StoreError, match=r"trajectories\.jsonl, line 2: is not a JSON object. Delete that line in a copy"
    ):
        list(TrajectoryStore(path))


def test_json_that_is_no_trajectory_is_named(path):
    filled(path, 1)
    with path.open("ab") as file:
        file.write(b'{"format": 2, "turns": []}\n')
    with pytest.raises(StoreError, match="line 2: is no trajectory: KeyError"):
        list(TrajectoryStore(path))


def test_a_store_of_another_format_is_refused_by_its_number(path):
    path.parent.mkdir()
    path.write_text('{"env_id": "agentrl/Shop-v0", "status": "terminated", "turns": []}\n')
    with pytest.raises(StoreError, match=r"trajectories\.jsonl, line 1: was written in format 1, and this version"):
        list(TrajectoryStore(path))


def test_a_missing_store_is_named(path):
    with pytest.raises(StoreError, match="there is no store at"):
        list(TrajectoryStore(path))
    assert TrajectoryStore(path).position == 0


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("written", [0, 1, 100])
def test_a_full_disk_loses_nothing_and_writing_goes_on_when_there_is_space(path, monkeypatch, error, written):
    store = filled(path, 2)
    before, real = path.read_bytes(), os.write

    def full(file, line, budget=[written]):  # noqa: B006
        if budget[0] == 0:
            raise OSError(error, os.strerror(error))
        size, budget[0] = budget[0], 0
        return real(file, bytes(line)[:size])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreError, match=r"the disk is full: .*What was written before is whole; free space"):
        store.append(trajectory(2))
    assert path.read_bytes() == before
    monkeypatch.undo()
    store.append(trajectory(3))
    assert [t.seed for t in store] == [0, 1, 3]


def test_a_real_limit_on_the_file_size_is_reported_the_same_way(path):
    program = """
import resource, signal, sys
from agentrl.errors import StoreError
from agentrl.rollout.store import TrajectoryStore
from agentrl.trajectory import EnvRef, Task, Trajectory
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
store = TrajectoryStore(sys.argv[1])
for count in range(10**6):
    try:
        store.append(Trajectory(EnvRef("e"), Task("t"), count))
    except StoreError as error:
        print(count, error)
        break
"""
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=60)
    count, message = done.stdout.split(" ", 1)
    assert message.startswith("the disk is full: cannot write")
    assert int(count) > 3
    assert [t.seed for t in TrajectoryStore(path)] == list(range(int(count)))
    assert path.read_bytes().endswith(b"\n")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="give a folder you may write to"):
        TrajectoryStore(tmp_path / "file" / "trajectories.jsonl").append(trajectory(0))


def test_rewind_goes_back_to_a_checkpoint(path):
    store = filled(path, 2)
    mark = TrajectoryStore(path).position
    assert mark == store.position == path.stat().st_size
    for number in (2, 3):
        store.append(trajectory(number))
    store.close()
    resumed = TrajectoryStore(path)
    resumed.rewind(mark)
    resumed.append(trajectory(9))
    resumed.sync()
    assert [t.seed for t in resumed] == [0, 1, 9]
    with pytest.raises(StoreError, match="checkpoint was made at byte 999999"):
        resumed.rewind(999_999)


def test_summary_is_replaced_at_once(tmp_path, monkeypatch):
    path = tmp_path / "run" / "summary.json"
    write_summary(path, {"score": 0.5, "name": "é"})
    assert json.loads(path.read_text()) == {"score": 0.5, "name": "é"}

    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="the disk is full"):
        write_summary(path, {"score": 0.9})
    assert json.loads(path.read_text())["score"] == 0.5
    assert os.listdir(path.parent) == ["summary.json"]
