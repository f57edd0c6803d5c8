from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from agentrl.errors import ConfigError, StoreError
from agentrl.rollout.lock import LOCK_NAME, FolderLock, is_empty

HOLD = """
import sys
from agentrl.rollout.lock import FolderLock
lock = FolderLock(sys.argv[1]).acquire()
print("held", flush=True)
sys.stdin.read()
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock of a folder until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with holder(folder) as process:
        expected = f"{folder} is in use by process {process.pid} on {socket.gethostname()}"
        with pytest.raises(ConfigError, match=expected):
            FolderLock(folder).acquire()
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
    with FolderLock(folder) as lock:
        assert lock.held


def test_a_second_run_of_the_same_process_is_refused(tmp_path: Path) -> None:
    with FolderLock(tmp_path), pytest.raises(ConfigError, match=f"process {os.getpid()} on"):
        FolderLock(tmp_path).acquire()


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / LOCK_NAME).exists()
    with FolderLock(tmp_path) as lock:
        assert lock.held
        assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == os.getpid()


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path).acquire()
    reader, writer = os.pipe()
    its_reader, its_writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        lock.release()  # must not touch the parent's lock
        os.write(its_writer, b"1")
        os.read(reader, 1)  # lives on until the parent has tried
        os._exit(0)
    os.close(reader)
    os.read(its_reader, 1)
    with pytest.raises(ConfigError):
        FolderLock(tmp_path).acquire()
    os.close(lock._file)  # type: ignore[arg-type]  # as if this process had been killed
    lock._file = None
    with FolderLock(tmp_path) as again:
        assert again.held
    for end in (writer, its_reader, its_writer):
        os.close(end)
    os.waitpid(child, 0)


def test_a_program_that_is_started_does_not_keep_the_lock(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path).acquire()
    assert lock._file is not None
    assert not os.get_inheritable(lock._file)
    lock.release()


def test_a_released_lock_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert is_empty(folder)
    lock = FolderLock(folder).acquire()
    assert is_empty(folder)
    lock.release()
    lock.release()
    assert list(folder.iterdir()) == []
    (folder / "notes.txt").write_text("mine")
    assert not is_empty(folder)


def test_a_lock_whose_file_was_removed_is_not_shared(tmp_path: Path) -> None:
    # The second opened the file before the first removed it: it must lock the one that is there now.
    first, second = FolderLock(tmp_path).acquire(), FolderLock(tmp_path)
    old = second._open()
    assert old is not None
    first.release()
    assert not second._take(old)
    os.close(old)
    with second:
        assert second.held
        assert (tmp_path / LOCK_NAME).exists()


def test_a_file_of_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).write_text("poetry")
    with pytest.raises(ConfigError, match="no lock of AgentRL"):
        FolderLock(tmp_path).acquire()
    assert (tmp_path / LOCK_NAME).read_text() == "poetry"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("")
    (tmp_path / LOCK_NAME).symlink_to(tmp_path / "precious")
    with pytest.raises(StoreError, match="cannot write"):
        FolderLock(tmp_path).acquire()


def test_a_folder_that_cannot_be_written_needs_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refused)
    with FolderLock(tmp_path) as lock:
        assert not lock.held


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="choose another folder"):
        FolderLock(tmp_path / "file").acquire()
