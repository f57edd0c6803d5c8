"""The index over stores that grow, are cut, are replaced, and hold lines that cannot be read."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agentrl.errors import ConfigError
from agentrl.trajectory import Ending, Labels
from agentrl.viewer import query
from agentrl.viewer.episodes import Gone, read_episode
from agentrl.viewer.query import EpisodeQuery
from agentrl.viewer.sources import check_places, find_sources, said_by
from agentrl.viewer.watch import Watcher
from tests.viewer.conftest import episode, look, only_source, write

Watch = Callable[..., Watcher]


def ids(watcher: Watcher, **asked: object) -> list[str]:
    source = watcher.sources[only_source(watcher)]
    return [row["episode_id"] for row in query.episodes(watcher.index, source, EpisodeQuery(**asked)).rows]


def test_appended_lines_join_the_index(tmp_path: Path, watch: Watch) -> None:
    store = write(tmp_path / "run" / "trajectories.jsonl", episode(0))
    watcher = watch(tmp_path)
    assert ids(watcher) == ["e0"]
    changes = watcher.changes
    look(watcher)
    assert watcher.changes == changes, "nothing moved"
    write(store, episode(1), episode(2))
    assert ids(look(watcher)) == ["e2", "e1", "e0"]
    assert watcher.changes > changes
    assert watcher.progress[only_source(watcher)].generation == 0


def test_a_torn_line_waits_until_it_is_whole(tmp_path: Path, watch: Watch) -> None:
    store = write(tmp_path / "trajectories.jsonl", episode(0), episode(1))
    text = store.read_bytes()
    store.write_bytes(text[:-40])
    watcher = watch(tmp_path)
    assert ids(watcher) == ["e0"]
    assert watcher.progress[only_source(watcher)].whole
    with store.open("ab") as file:
        file.write(text[-40:-1])
    assert ids(look(watcher)) == ["e0"], "its newline is missing"
    with store.open("ab") as file:
        file.write(text[-1:])
    assert ids(look(watcher)) == ["e1", "e0"]
    found = read_episode(watcher.index, watcher.sources[only_source(watcher)], 2)
    assert found.messages() == episode(1).messages()


@pytest.mark.parametrize("kept", [0, 1])
def test_a_store_that_shrank_is_read_again(kept: int, tmp_path: Path, watch: Watch) -> None:
    store = write(tmp_path / "trajectories.jsonl", *(episode(n) for n in range(5)))
    watcher = watch(tmp_path)
    store.write_bytes(b"".join(store.read_bytes().splitlines(keepends=True)[:kept]))
    assert ids(look(watcher)) == ["e0"][:kept]
    write(store, episode(9))
    assert ids(look(watcher)) == ["e9", "e0"][: kept + 1]
    assert watcher.progress[only_source(watcher)].generation == 1


def test_a_store_cut_and_longer_again_at_the_next_look_is_read_again(tmp_path: Path, watch: Watch) -> None:
    """A resumed run cuts its store back to a checkpoint and goes on."""
    store = write(tmp_path / "trajectories.jsonl", *(episode(n) for n in range(3)))
    watcher = watch(tmp_path)
    store.write_bytes(store.read_bytes().splitlines(keepends=True)[0])
    write(store, *(episode(n, text="otherwise") for n in range(10, 16)))
    assert ids(look(watcher)) == ["e15", "e14", "e13", "e12", "e11", "e10", "e0"]


@pytest.mark.parametrize("how", ["replaced", "edited"])
def test_a_store_of_the_same_size_with_other_lines_is_read_again(how: str, tmp_path: Path, watch: Watch) -> None:
    store = write(tmp_path / "trajectories.jsonl", episode(1), episode(2))
    watcher = watch(tmp_path)
    text = store.read_bytes().replace(b'"e1"', b'"e7"')
    if how == "replaced":
        (tmp_path / "new").write_bytes(text)
        os.replace(tmp_path / "new", store)
    else:
        store.write_bytes(text)
        os.utime(store, ns=(1, 1))
    assert ids(look(watcher)) == ["e2", "e7"]


def test_a_line_that_is_gone_is_told(tmp_path: Path, watch: Watch) -> None:
    store = write(tmp_path / "trajectories.jsonl", episode(0), episode(1))
    watcher = watch(tmp_path)
    source = watcher.sources[only_source(watcher)]
    store.write_bytes(b"")
    with pytest.raises(Gone, match="no longer"):
        read_episode(watcher.index, source, 2)
    store.unlink()
    with pytest.raises(Gone, match="no longer"):
        read_episode(watcher.index, source, 2)


def test_lines_that_cannot_be_read_are_counted_and_named(tmp_path: Path, watch: Watch) -> None:
    store = write(tmp_path / "trajectories.jsonl", episode(0))
    with store.open("ab") as file:
        file.write(b'not JSON\n{"a": 1}\n[]\n\xff\xfe\n' + b"[" * 5000 + b"\n")
        file.write(store.read_bytes().splitlines()[0].replace(b'"format":3', b'"format":1') + b"\n")
    write(store, episode(7))
    watcher = watch(tmp_path)
    source = watcher.sources[only_source(watcher)]
    rows = query.episodes(watcher.index, source, EpisodeQuery()).rows
    assert [row["episode_id"] for row in rows] == ["e7", "", "", "", "", "", "", "e0"]
    assert "format 1" in rows[1]["problem"]
    assert query.num_problems(watcher.index, source) == 6


def test_a_line_of_the_slow_writer_is_read(tmp_path: Path, watch: Watch) -> None:
    """NaN and half characters: such a line begins with a space."""
    store = write(tmp_path / "trajectories.jsonl", episode(0, info={"x": float("nan"), "text": "\ud800"}))
    with store.open("ab") as file:
        file.write(b" " + store.read_bytes().lstrip())
    watcher = watch(tmp_path)
    assert ids(watcher) == ["e0", "e0"]


def test_ten_thousand_lines_in_pages(tmp_path: Path, watch: Watch) -> None:
    store = tmp_path / "trajectories.jsonl"
    write(store, episode(0))
    line = store.read_bytes()
    store.write_bytes(b"".join(line.replace(b'"e0"', b'"e%d"' % n) for n in range(10_000)))
    watcher = watch(tmp_path)
    source = watcher.sources[only_source(watcher)]
    seen: list[str] = []
    before = None
    while True:
        page = query.episodes(watcher.index, source, EpisodeQuery(before=before, limit=200))
        seen += [row["episode_id"] for row in page.rows]
        if page.next is None:
            break
        before = page.next
    assert seen == [f"e{n}" for n in reversed(range(10_000))]
    assert query.facets(watcher.index, source)["stage"] == [("rl", 10_000)]
    (total,) = query.totals(watcher.index, source)
    assert (total["attempted"], total["scored"], total["solved"], total["reward"]) == (10_000, 10_000, 10_000, 10_000)


def test_nothing_is_written_beside_a_store(tmp_path: Path, watch: Watch) -> None:
    run = tmp_path / "run"
    write(run / "trajectories.jsonl", episode(0))
    before = {path: path.stat().st_mtime_ns for path in (run, *run.iterdir())}
    watch(run)
    assert {path: path.stat().st_mtime_ns for path in (run, *run.iterdir())} == before


def test_the_thread_follows_new_runs_and_ends(tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Watcher.__init__.__globals__, "_FIND_S", 0.05)
    watcher = watch(tmp_path)
    before = threading.active_count()
    with watcher:
        write(tmp_path / "later" / "trajectories.jsonl", episode(0))
        until = time.monotonic() + 30
        while not any(p.episodes for p in list(watcher.progress.values())) and time.monotonic() < until:
            time.sleep(0.02)
        assert ids(watcher) == ["e0"]
    assert threading.active_count() == before


def test_the_end_of_a_run_is_a_change(tmp_path: Path, watch: Watch) -> None:
    """The page shows then that it is finished."""
    for name in ("config.toml", "metrics.jsonl"):
        (tmp_path / name).write_text("")
    watcher = watch(tmp_path)
    changes = watcher.changes
    (tmp_path / "summary.json").write_text("{}")
    assert look(watcher).changes > changes
    (tmp_path / "metrics.jsonl").write_text('{"stage": "rl"}')
    assert look(watcher).progress[only_source(watcher)].metrics == 15


def test_a_store_that_cannot_be_read_stops_no_other(tmp_path: Path, watch: Watch) -> None:
    stores = [write(tmp_path / name / "trajectories.jsonl", episode(0)) for name in "ab"]
    watcher = watch(tmp_path)
    stores[0].unlink()
    stores[0].mkdir()
    write(stores[1], episode(1))
    watcher.look()
    assert sorted(progress.episodes for progress in watcher.progress.values()) == [1, 2]


def test_a_store_that_cannot_be_read_is_told_once(
    tmp_path: Path, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    store = write(tmp_path / "trajectories.jsonl", episode(0))
    watcher = watch(tmp_path)
    store.unlink()
    store.mkdir()
    watcher.look()
    watcher.look()
    assert [record.getMessage() for record in caplog.records] == [
        f"{store} cannot be read: [Errno 21] Is a directory: '{store}'"
    ]


def test_a_store_that_is_cut_while_it_is_read_ends_the_look(tmp_path: Path, watch: Watch) -> None:
    store = write(tmp_path / "trajectories.jsonl", episode(0))
    watcher = watch(tmp_path)
    place = watcher._places[only_source(watcher)]
    with store.open("rb") as file:
        # The size is that of before the cut.
        assert watcher._read(watcher.sources[only_source(watcher)], place, file, store.stat().st_size + 1000)
    assert ids(watcher) == ["e0"]


def test_a_summary_says_the_state_and_the_policy(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    assert said_by(path, 0) == ("unfinished", "")
    for changed, (text, told) in enumerate(
        [
            ('{"status": "running", "policy": "oracle"}', ("running", "oracle")),
            ('{"wall_s": 1}', ("finished", "")),
            ('{"policy": {"name": 1}}', ("finished", "")),
            ("[1]", ("unfinished", "")),
            ('{"half', ("unfinished", "")),
        ],
        1,
    ):
        path.write_text(text)
        assert said_by(path, changed) == told


def test_totals_leave_out_forks_and_attempts_that_do_not_count(tmp_path: Path, watch: Watch) -> None:
    store = tmp_path / "trajectories.jsonl"
    write(
        store,
        episode(0),
        episode(1, labels=Labels(stage="rl", superseded=True)),
        episode(2, fork=("e0", 1)),
        episode(3, ending=Ending("fault", "the server is gone"), labels=Labels(stage="rl")),
        episode(4, reward=0.25),
    )
    watcher = watch(tmp_path)
    (total,) = query.totals(watcher.index, watcher.sources[only_source(watcher)])
    assert {**total, "first": 0} == {
        **{"stage": "rl", "mode": "sampled", "first": 0},
        **{"attempted": 3, "scored": 2, "solved": 1, "reward": 1.25},
    }


def test_what_counts_as_a_source(tmp_path: Path) -> None:
    write(tmp_path / "suite" / "shop" / "trajectories.jsonl", episode(0))
    (tmp_path / "suite" / "shop" / "summary.json").write_text("{}")
    run = tmp_path / "train"
    run.mkdir()
    for name in ("config.toml", "metrics.jsonl"):
        (run / name).write_text("")
    write(run / "checkpoints" / "trajectories.jsonl", episode(0))
    write(tmp_path / "alone.jsonl", episode(0))
    os.mkfifo(tmp_path / "trajectories.jsonl")
    found = {source.name: source.kind for source in find_sources([tmp_path, tmp_path / "alone.jsonl"])}
    assert found == {"suite/shop": "benchmark", "train": "training", "alone.jsonl": "store"}
    with pytest.raises(ConfigError, match="there is no"):
        check_places([tmp_path / "missing"])
