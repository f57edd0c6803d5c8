"""Filters, search and pages of episodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agentrl.messages import Action
from agentrl.trajectory import Ending, Labels
from agentrl.viewer import query
from agentrl.viewer.query import EpisodeQuery
from agentrl.viewer.watch import Watcher
from tests.viewer.conftest import episode, only_source, write


@pytest.fixture
def watcher(tmp_path: Path, watch: Callable[..., Watcher]) -> Watcher:
    store = tmp_path / "trajectories.jsonl"
    later = episode(3, reward=0.5, labels=Labels(stage="after", mode="greedy", step=9))
    later.turns[1].action = Action("blue", prompt_ids=(1,), token_ids=(2, 3), versions=(6, 7))
    write(
        store,
        episode(0, text="the word ‘Äpfel’"),
        episode(1, reward=0.0),
        episode(2, ending=Ending("fault", "gone", "server"), labels=Labels(stage="rl", superseded=True)),
        later,
    )
    return watch(tmp_path)


@pytest.mark.parametrize(
    ("asked", "lines"),
    [
        ({}, [4, 3, 2, 1]),
        ({"after": 0}, [1, 2, 3, 4]),
        ({"after": 2}, [3, 4]),
        ({"before": 3}, [2, 1]),
        ({"limit": 2}, [4, 3]),
        ({"task": "t-1"}, [2]),
        ({"task": "t-"}, [4, 3, 2, 1]),
        ({"task": "%"}, []),
        ({"stage": "after"}, [4]),
        ({"stage": ""}, []),
        ({"mode": "greedy"}, [4]),
        ({"status": "fault"}, [3]),
        ({"ending": "answer", "success": False}, [4, 2]),
        ({"success": True}, [1]),
        ({"superseded": False}, [4, 2, 1]),
        ({"reward_min": 0.25, "reward_max": 0.75}, [4]),
        ({"step_min": 2}, [4]),
        ({"version_min": 7, "version_max": 7}, [4]),
        ({"env": "other/Env-v0"}, []),
        ({"text": "Äpfel"}, [1]),
        ({"text": "blue"}, [4]),
        ({"text": "red", "after": 0, "limit": 2}, [1, 2]),
        ({"text": "nowhere"}, []),
        ({"task": "' OR 1=1 --"}, []),
    ],
)
def test_filters(asked: dict[str, Any], lines: list[int], watcher: Watcher) -> None:
    found = query.episodes(watcher.index, watcher.sources[only_source(watcher)], EpisodeQuery(**asked))
    assert [row["line"] for row in found.rows] == lines


def test_a_search_that_stops_early_goes_on_where_it_was(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "_SCAN_BYTES", 1)
    monkeypatch.setattr(query, "_PIECE_BYTES", 1)
    source = watcher.sources[only_source(watcher)]
    pages, before = [], None
    for _ in range(4):
        page = query.episodes(watcher.index, source, EpisodeQuery(text="Äpfel", before=before))
        pages.append(([row["line"] for row in page.rows], page.next, page.scanned))
        before = page.next
    assert pages == [([], 4, True), ([], 3, True), ([], 2, True), ([1], 1, True)]


def test_a_run_without_a_store_has_no_text(tmp_path: Path, watch: Callable[..., Watcher]) -> None:
    (tmp_path / "run").mkdir()
    for name in ("config.toml", "metrics.jsonl"):
        (tmp_path / "run" / name).touch()
    watcher = watch(tmp_path)
    found = query.episodes(watcher.index, watcher.sources[only_source(watcher)], EpisodeQuery(text="blue"))
    assert (found.rows, found.next) == ([], None)


@pytest.mark.parametrize("asked", [{"limit": 201}, {"limit": 0}, {"text": "x" * 301}, {"path": "/etc/passwd"}])
def test_a_page_has_bounds(asked: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        EpisodeQuery(**asked)
