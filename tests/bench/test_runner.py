"""The benchmark runner: scores, references, records, resuming, interruption, and a real server."""

import asyncio
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from agentrl.bench.estimates import clustered_proportion
from agentrl.bench.folder import default_out
from agentrl.bench.result import BenchConfig, choose_tasks, score_of
from agentrl.bench.runner import arun_bench, run_bench
from agentrl.errors import ConfigError, RolloutError, TaskError
from agentrl.messages import Action
from agentrl.policy.by_name import PolicySetup
from agentrl.trajectory import Trajectory
from tests.bench.toys import Adder, Some, breaks, recorded, summary
from tests.policy.chat_server import KEY, ChatServer


def test_a_score_stands_beside_null_and_oracle() -> None:
    result = run_bench(Adder, Some(right=4), trials=2)
    assert result.status == "finished"
    assert result.score.success.mean == 0.5
    assert result.score.success.ci95 == pytest.approx(clustered_proportion([[1.0], [0.0]] * 4).ci95)
    assert result.references["oracle"].success.mean == 1.0
    assert result.references["null"].success.mean == 0.0
    assert {k: e.mean for k, e in result.score.pass_at.items()} == {1: 0.5, 2: 0.5}
    assert (result.score.n_tasks, result.score.n_episodes, result.score.n_planned) == (8, 16, 16)
    assert result.references["oracle"].n_episodes == 8


def test_tools_tokens_and_turns_are_counted() -> None:
    score = run_bench(Adder, Some(right=4), references=False).score
    assert {n: (t.calls, t.errors, t.episodes) for n, t in score.tools.items()} == {"add": (8, 0, 8)}
    effort = score.effort
    assert (effort.turns, effort.completion_tokens, effort.prompt_tokens) == (2.0, 10.0, 14.0)
    assert effort.tokens_per_success.mean == 20.0  # eight episodes of 10 tokens, four successes


def test_an_oracle_is_not_played_beside_itself() -> None:
    result = run_bench(Adder, "oracle")
    assert list(result.references) == ["null"]
    assert (result.policy, result.score.success.mean) == ("oracle", 1.0)
    assert list(run_bench(Adder, "null").references) == ["oracle"]


def test_the_json_form_is_json() -> None:
    record = json.loads(json.dumps(run_bench(Adder, "null", num_tasks=1).to_json(), allow_nan=False))
    assert record["success"] == {"mean": 0.0, "ci95": [0.0, 1.0], "n": 1}
    assert record["reward"]["ci95"] == [0.0, 1.0]
    assert record["effort"]["completion_tokens"] is None
    assert record["references"]["oracle"]["success"]["mean"] == 1.0


def test_the_choice_of_tasks_grows_without_changing() -> None:
    few = choose_tasks(Adder(), BenchConfig(num_tasks=3, seed=1))
    more = choose_tasks(Adder(), BenchConfig(num_tasks=5, seed=1))
    assert more[:3] == few
    assert few != choose_tasks(Adder(), BenchConfig(num_tasks=3, seed=2))
    with pytest.raises(ConfigError, match="has 8 tasks, 9 wanted"):
        choose_tasks(Adder(), BenchConfig(num_tasks=9))
    with pytest.raises(TaskError, match="Did you mean 'eval'"):
        run_bench(Adder, "null", split="evla")
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        run_bench(Adder, "null", trials=0)
    with pytest.raises(TypeError, match="trails"):
        run_bench(Adder, "null", trails=2)


def test_faults_are_set_apart_with_their_cause(tmp_path: Path) -> None:
    result = run_bench(Adder, Some(broken=[5]), out=tmp_path / "b")
    assert (result.score.success.mean, result.score.n_episodes, result.score.n_faults) == (1.0, 7, 1)
    assert "the server is gone" in next(iter(result.score.faults))
    assert summary(tmp_path / "b")["n_faults"] == 1


def test_a_summary_says_when_and_with_what_and_each_result(tmp_path: Path) -> None:
    run_bench(Adder, Some(right=4, broken=[7]), out=tmp_path, trials=2, references=False)
    first = summary(tmp_path)
    assert first["versions"] == {
        "agentrl": version("agentrl"),
        "python": platform.python_version(),
        "environment": first["env"]["version"],
        **{name: version(name) for name in ("torch", "transformers") if name in sys.modules},
    }
    started, ended = (datetime.fromisoformat(str(first[name])) for name in ("started_at", "ended_at"))
    assert started.utcoffset() == timedelta(0)
    assert started <= ended <= datetime.now(UTC)
    trials = first["tasks"]["eval-5"]["trials"]
    assert first["tasks"]["eval-5"]["fingerprint"] == Adder.tasks["eval-5"].fingerprint
    assert first["identity"]["tasks"]["fingerprints"]["eval-5"] == Adder.tasks["eval-5"].fingerprint
    assert [(t["trial"], t["reward"], t["success"], t["ending"]) for t in trials] == [
        (0, 0.0, False, "answer"),
        (1, 0.0, False, "answer"),
    ]
    broken = first["tasks"]["eval-7"]["trials"][0]
    assert (broken["reward"], broken["success"], broken["ending"], broken["who"]) == (None, False, "fault", "server")
    assert "the server is gone" in broken["detail"]
    run_bench(Adder, Some(), out=tmp_path, trials=2, references=False)
    assert summary(tmp_path)["started_at"] == first["started_at"]


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    class Meanwhile(Some):
        async def act(self, *arguments: Any, **named: Any) -> Action:
            if not self.asked:
                with pytest.raises(ConfigError, match=f"is in use by process {os.getpid()} on"):
                    await arun_bench(Adder, Meanwhile(), out=tmp_path, references=False)
            return await super().act(*arguments, **named)

    assert run_bench(Adder, Meanwhile(), out=tmp_path, references=False).score.n_episodes == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["summary.json", "trajectories.jsonl"]


def test_attempted_is_scored_and_discarded(tmp_path: Path) -> None:
    result = run_bench(breaks(), "oracle", references=False, out=tmp_path)
    counts = result.score.counts
    assert (counts.attempted, counts.scored, counts.discarded, counts.after_actions) == (8, 6, {"server": 2}, 2)
    assert (result.score.success.mean, result.score.of_attempted.mean) == (1.0, 0.75)
    assert result.score.of_attempted.ci95 == pytest.approx(clustered_proportion([[1.0]] * 6 + [[0.0]] * 2).ci95)
    record = summary(tmp_path)
    assert record["success_of_attempted"]["mean"] == 0.75
    assert (record["n_attempted"], record["discarded"]["server"], record["n_discarded_after_actions"]) == (8, 2, 2)
    assert record["warnings"] == result.warnings
    assert "2 of 8 episodes were discarded after the model had acted" in result.warnings[0]


def test_a_server_that_is_down_before_the_model_acts_is_no_reason_to_distrust() -> None:
    result = run_bench(Adder, Some(broken=[5]), references=False)
    assert result.warnings == []
    assert result.score.counts.discarded == {"server": 1}


def test_a_turn_that_a_filter_withholds_is_a_failure_with_its_own_count() -> None:
    class Filtered(Some):
        async def act(self, messages: Any, *arguments: Any, **named: Any) -> Action:
            if messages[0].content == "5+50":
                return Action(finish_reason="content_filter")
            return await super().act(messages, *arguments, **named)

    score = run_bench(Adder, Filtered(), references=False).score
    assert (score.success.mean, score.n_faults, score.n_episodes) == (7 / 8, 0, 8)
    assert score.to_json()["errors"] == {"content_filter": 1}
    assert sum(score.to_json()["failed"].values()) == 0


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="no benchmark"):
        run_bench(Adder, "null", out=tmp_path)
    (tmp_path / "summary.json").write_text('{"before": {}}')
    with pytest.raises(ConfigError, match="is no benchmark"):
        run_bench(Adder, "null", out=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["summary.json", "thesis.tex"]


def test_nothing_but_faults_ends_with_the_cause_and_the_records(tmp_path: Path) -> None:
    with pytest.raises(RolloutError, match="the server is gone"):
        run_bench(Adder, Some(broken=range(8)), out=tmp_path)
    left = summary(tmp_path)
    assert (left["status"], left["n_episodes"], left["n_faults"]) == ("failed", 0, 8)
    assert "the server is gone" in str(left["error"])
    assert run_bench(Adder, Some(), out=tmp_path).score.success.mean == 1.0


def test_progress_counts_what_former_calls_left(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    run_bench(Adder, Some(), out=tmp_path, references=False, num_tasks=4)
    run_bench(Adder, Some(), out=tmp_path, references=False, on_progress=lambda d, n, t: seen.append((d, n)))
    assert seen == [(5, 8), (6, 8), (7, 8), (8, 8)]


async def test_a_cancelled_benchmark_leaves_what_it_had(tmp_path: Path) -> None:
    half = asyncio.Event()

    def count(done: int, planned: int, trajectory: Trajectory) -> None:
        if done == 4:
            half.set()

    slow = Some(wait_s=0.01)
    config = BenchConfig(max_concurrency=1, references=False)
    running = asyncio.create_task(arun_bench(Adder, slow, config=config, out=tmp_path, on_progress=count))
    await half.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    left = summary(tmp_path)
    assert (left["status"], left["n_episodes"], left["n_planned"]) == ("interrupted", 4, 8)
    policy = Some()
    assert (await arun_bench(Adder, policy, out=tmp_path, references=False)).score.n_episodes == 8
    assert len(policy.asked) == 4


PROGRAM = """
import sys
from agentrl.bench.runner import run_bench
from tests.bench.toys import Adder, Some
result = run_bench(Adder, Some(wait_s=0.05), out=sys.argv[1], trials=50, max_concurrency=2, references=False)
print(result.status, result.score.n_episodes)
"""


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_process_loses_no_finished_episode(tmp_path: Path, kill: signal.Signals) -> None:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment, cwd=root
    )
    store = tmp_path / "trajectories.jsonl"
    while process.poll() is None and (not store.exists() or store.read_bytes().count(b"\n") < 6):
        time.sleep(0.02)
    process.send_signal(kill)
    output, _ = process.communicate(timeout=30)
    ended = len(recorded(tmp_path))
    assert 6 <= ended < 400
    if kill is signal.SIGINT:
        assert output.split() == ["interrupted", str(ended)]
        assert summary(tmp_path)["status"] == "interrupted"
    policy = Some()
    result = run_bench(Adder, policy, out=tmp_path, trials=50, references=False)
    assert (len(policy.asked), result.score.n_episodes) == (400 - ended, 400)


async def test_inside_a_loop_the_sync_face_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match="await arun_bench"):
        run_bench(Adder, "null")
    assert (await arun_bench(Adder, "null")).status == "finished"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("agentrl.policy.remote.options._FIRST_BACKOFF_S", 0.02)
    server = ChatServer()
    server.start()
    yield server
    server.kill()


def test_an_agent_behind_a_server_that_fails_now_and_then(server: ChatServer, tmp_path: Path) -> None:
    server.script({"status": 500}, {"drop": "before"}, {"status": 429, "headers": {"Retry-After": "0"}}, {"text": "?"})
    result = run_bench(Adder, "openai:bot", setup=PolicySetup(base_url=server.url), trials=2, out=tmp_path)
    assert (result.score.success.mean, result.score.n_episodes, result.score.n_faults) == (1.0, 16, 0)
    assert (result.score.effort.completion_tokens, result.score.tools["add"].calls) == (6.0, 16)
    assert KEY not in "".join(path.read_text() for path in tmp_path.iterdir())
    assert len({body["seed"] for body in server.bodies}) == 16  # a sampling stream per episode


def test_a_wrong_key_ends_the_benchmark_at_once(server: ChatServer, tmp_path: Path) -> None:
    server.script(*[{"status": 401, "json": {"error": {"message": f"bad key {KEY}"}}}] * 30)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY is set, but the server does not accept it"):
        run_bench(Adder, "openai:bot", setup=PolicySetup(base_url=server.url), out=tmp_path)
    assert summary(tmp_path)["status"] == "failed"
    assert KEY not in (tmp_path / "summary.json").read_text()


def test_no_episode_is_no_score() -> None:
    assert score_of([], trials=1, n_planned=3).to_json()["success"]["mean"] is None


def test_a_new_folder_is_named_after_what_it_holds(tmp_path: Path) -> None:
    path = default_out("agentrl/Shop-v0", "local:/a/b model", tmp_path)
    assert path.parent == tmp_path
    assert path.name.startswith("bench-Shop-v0-local-a-b-model-20")
