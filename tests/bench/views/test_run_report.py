"""The report: a fake run folder rendered whole, damaged and unfinished runs."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import to_builtins

from agentrl.bench.views.run_report import smoothed, write_report
from agentrl.errors import StoreError
from agentrl.messages import Action, Message, ToolCall
from agentrl.rollout.records import trajectory_record
from agentrl.trajectory import Ending, EnvRef, Labels, Task, Trajectory, Turn

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Outline(HTMLParser):
    """Tags must balance; text and attributes are gathered."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data


def outline(path: Path) -> Outline:
    parser = Outline()
    parser.feed(path.read_text())
    parser.close()
    assert parser.open == []
    return parser


def episode(task: str, phase: str, success: bool, **changes: Any) -> dict[str, Any]:
    look = Action("", (ToolCall("search", {"kind": "tea"}, "c0"),), reasoning="look first")
    found = Message("tool", "812 costs 14\n377 costs 21", tool_call_id="c0", name="search")
    buy = Action("", (ToolCall("order", {"offer": 812 if success else 377, "quantity": 3}, "c1"),))
    bought = Message("tool", "order 4711", tool_call_id="c1", name="order")
    turns = [
        Turn((Message("user", "Buy 3 <tea> & </script>."),), look, policy_s=0.2, env_s=0.01),
        Turn((found,), buy, policy_s=0.2, env_s=0.01),
        Turn((bought,), Action("4711"), float(success), {"correct": float(success)}),
    ]
    labels = Labels(phase, mode="greedy" if phase != "train" else "sampled")
    info = {
        "tool_stats": {"search": {"calls": 1, "errors": 0}, "order": {"calls": 2, "errors": 1}},
        "success": success,
    }
    trajectory = Trajectory(
        EnvRef("agentrl/Shop-v0"), Task(task, "eval"), 0, turns, info=info, labels=labels, **changes
    )
    return to_builtins(trajectory_record(trajectory))


def table(greedy: float, sampled: float) -> dict[str, Any]:
    cells = {
        name: {"mean": mean, "ci95": [mean - 0.06, min(1.0, mean + 0.06)]}
        for name, mean in (("greedy", greedy), ("sampled", sampled))
    }
    return {**cells, "n_tasks": 200}


def fake_metrics() -> list[dict[str, Any]]:
    rng = np.random.default_rng(3)
    rows: list[dict[str, Any]] = []
    for step in range(1, 61):
        loss = 2.4 * math.exp(-step / 12) + 0.15 + 0.03 * rng.random()
        rows.append({"step": step, "time_s": 0.9 * step, "stage": "warm_start", "version": 0, "loss/supervised": loss})
    clock = 60.0
    for step in range(61):
        clock += 2.5
        level = 0.4 + 0.55 / (1 + math.exp(-(step - 18) / 5))
        if step:
            success = min(1.0, max(0.0, level + 0.05 * rng.standard_normal()))
            rows.append(
                {
                    "step": step,
                    "time_s": clock,
                    "stage": "rl",
                    "version": step,
                    "rollout/reward_mean": success,
                    "rollout/success": success,
                    "rollout/turns_mean": 3 + success,
                    "rollout/truncated": 0.02 * rng.random(),
                    "rollout/groups_equal": min(1.0, success * 0.8),
                    "loss/policy": 0.01 * rng.standard_normal(),
                    "policy/entropy": 0.5 * math.exp(-step / 20),
                    "time/sample_s": 1.4,
                    "time/learn_s": 0.9,
                    "time/record_s": 0.05,
                }
            )
        if step % 10 == 0:
            bounds = {"eval/ci95_low": level - 0.08, "eval/ci95_high": min(1.0, level + 0.07)}
            row = {
                "step": step,
                "time_s": clock,
                "stage": "eval",
                "version": step,
                "eval/success": level,
                "time/eval_s": 1.0,
            }
            rows.append({**row, **bounds, "eval/reward_mean": level})
    return rows


def fake_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in fake_metrics()))
    episodes = [episode(f"eval-{i}", "before", i == 3) for i in range(4)]
    episodes += [episode(f"eval-{i}", "after", i != 1) for i in range(4)]
    episodes += [episode(f"train-{i}", "train", True) for i in range(5)]
    episodes += [episode("train-9", "train", False, ending=Ending("fault", "EnvFault: the store went away\nlong"))]
    (folder / "trajectories.jsonl").write_text("".join(json.dumps(record) + "\n" for record in episodes))
    summary = {"env": {"id": "agentrl/Shop-v0"}, "seed": 7, "wall_s": 231.4, "cpu_s": 240.0}
    summary |= {"before": table(0.41, 0.38), "after": table(0.97, 0.945)}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.toml").write_text('seed = 7\n\n[env]\nid = "agentrl/Shop-v0"\n')
    return folder


def test_a_whole_run(tmp_path: Path) -> None:
    path = write_report(fake_run(tmp_path / "runs" / "quickstart"))
    assert path == tmp_path / "runs" / "quickstart" / "report.html"
    page = outline(path)
    text = re.sub(r"\s+", " ", page.text)
    for words in (
        "41.0%→ 97.0%",
        "38.0%→ 94.5%",
        "35.0 to 47.0%",
        "3 min 51 s",
        "200",
        "not solved",
        'id = "agentrl',
    ):
        assert words in text
    assert "search(kind=" in text
    assert "look first" in text


def test_nothing_is_fetched(tmp_path: Path) -> None:
    page = outline(write_report(fake_run(tmp_path / "run")))
    assert not [value for name, value in page.attributes if name in ("src", "href", "srcset", "action")]
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttp", (tmp_path / "run" / "report.html").read_text())


def test_what_a_model_says_is_escaped(tmp_path: Path) -> None:
    page = outline(write_report(fake_run(tmp_path / "run")))
    assert "Buy 3 <tea> & </script>." in page.text


def test_learnt_tasks_come_first_and_failures_are_shown_too(tmp_path: Path) -> None:
    html = write_report(fake_run(tmp_path / "run")).read_text()
    tabs = re.findall(r'data-pair="\d">(eval-\d)\s*<span class="(\w+)">.</span>\s*<span class="(\w+)">', html)
    assert tabs == [
        ("eval-0", "bad", "good"),
        ("eval-2", "bad", "good"),
        ("eval-1", "bad", "bad"),
        ("eval-3", "good", "good"),
    ]


def test_tool_table_counts_by_phase_without_faults(tmp_path: Path) -> None:
    html = write_report(fake_run(tmp_path / "run")).read_text()
    row = re.search(r"<tr><td><code>order</code></td>(.*?)</tr>", html)
    assert row is not None
    assert re.findall(r"<td[^>]*>([^<]*)</td>", row.group(1)) == ["8", "50.0%", "10", "50.0%", "8", "50.0%"]


def test_a_greedy_baseline_makes_no_evaluation_of_a_training_stage(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "run")
    first, baseline = episode("train-7", "train", True), episode("train-7", "train", True)
    baseline["labels"]["mode"] = "greedy"
    lines = (folder / "trajectories.jsonl").read_text().splitlines(keepends=True)
    (folder / "trajectories.jsonl").write_text("".join([*lines, json.dumps(first) + "\n", json.dumps(baseline) + "\n"]))
    html = write_report(folder).read_text()
    row = re.search(r"<tr><td><code>order</code></td>(.*?)</tr>", html)
    assert row is not None
    assert re.findall(r"<td[^>]*>([^<]*)</td>", row.group(1)) == ["8", "50.0%", "14", "50.0%", "8", "50.0%"]
    assert re.findall(r'data-pair="\d">([\w-]+)', html) == ["eval-0", "eval-2", "eval-1", "eval-3"]


def test_a_continuation_of_another_episode_counts_in_no_measure(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "run")
    before = rows_of_episodes(folder)
    stored(folder, *(episode(f"train-{n}", "train", True, fork=("train-0", 1)) for n in range(4)))
    assert rows_of_episodes(folder) == before
    row = re.search(r"<tr><td><code>order</code></td>(.*?)</tr>", (folder / "report.html").read_text())
    assert row is not None
    assert re.findall(r"<td[^>]*>([^<]*)</td>", row.group(1)) == ["8", "50.0%", "10", "50.0%", "8", "50.0%"]


def test_time_shares_add_up_to_the_wall_time(tmp_path: Path) -> None:
    html = write_report(fake_run(tmp_path / "run")).read_text()
    seconds = {
        name: float(s) for name, s in re.findall(r'</i>([\w ]+) <b>\d+%</b> <span class="soft">([\d.]+) s', html)
    }
    assert seconds["sample"] == pytest.approx(60 * 1.4)
    assert seconds["supervised"] == pytest.approx(54.0)
    assert seconds["eval"] == pytest.approx(7.0)
    assert sum(seconds.values()) == pytest.approx(231.4, abs=0.2)


def test_warnings_name_faults_and_overlap(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    summary["after"] = table(0.45, 0.9)
    (folder / "summary.json").write_text(json.dumps(summary))
    text = outline(write_report(folder)).text
    assert "1 of 14 episodes were discarded; most often" in text
    assert "(1x): EnvFault: the store went away\n" in text
    assert "before and after overlap (greedy)" in text
    assert "overlap (sampled" not in text


def test_the_report_says_what_the_numbers_mean_and_what_the_run_was_made_with(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    summary["verdicts"] = [
        {"name": "worse", "text": "Worse (greedy): success changed by -0.2 <here>."},
        {"name": "learnt_by_heart", "text": "Learnt by heart: so it is."},
    ]
    summary["stages"] = {"rl": {"selection": {"text": "Stopped at step 15 of 40: solved"}}}
    summary |= {"packages": {"torch": "2.13.0"}, "machine": {"cores": 2, "gpu": None}}
    summary["cost"] = {"cpu_s_by_stage": {"warm_start": 61.4}, "tokens": {"sampled": 123456}}
    (folder / "summary.json").write_text(json.dumps(summary))
    text = re.sub(r"\s+", " ", outline(write_report(folder)).text)
    for words in (
        "Worse (greedy): success changed by -0.2 <here>.",
        "Learnt by heart: so it is.",
        "rl: Stopped at step 15 of 40: solved.",
        "torch 2.13.0",
        "cores 2",
        "warm start 61 s",
        "sampled 123,456",
    ):
        assert words in text
    assert "gpu" not in text
    assert "overlap" not in text
    assert '<p class="bad">Worse' in (folder / "report.html").read_text()


def test_an_unfinished_run_says_why_nothing_is_learnt(tmp_path: Path) -> None:
    rows = [
        {"step": n, "time_s": n, "stage": "rl", "version": n, "rollout/success": 0.0, "rollout/groups_failed": 1.0}
        for n in range(1, 6)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = outline(write_report(tmp_path)).text
    assert "Too hard: in 100% of the groups no episode succeeds" in text
    assert "Made with" not in text


def stored(folder: Path, *records: dict[str, Any]) -> None:
    """Add episodes to a fake run."""
    with (folder / "trajectories.jsonl").open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def rows_of_episodes(folder: Path) -> dict[str, list[str]]:
    """The table of episodes: stage and mode -> cells."""
    html = write_report(folder).read_text()
    found = re.search(r"<h2>Episodes</h2>.*?</table>", html, re.DOTALL)
    assert found is not None
    rows = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in re.findall(r"<tr>.*?</tr>", found.group(), re.DOTALL)]
    return {row[0]: row[1:] for row in rows if row}


def test_attempted_is_scored_and_discarded_in_every_stage(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "run")
    gone = episode("eval-9", "after", False, ending=Ending("fault", "PolicyFault: no answer", "server"))
    gone["turns"] = []
    refused = episode("eval-8", "after", False, ending=Ending("error", "refused"))
    author = episode("train-8", "train", False, ending=Ending("error", "EnvFault: step raised", "author"))
    again = episode("train-7", "train", False, ending=Ending("fault", "EnvFault: x", "host"))
    again["labels"]["superseded"] = True
    stored(folder, gone, refused, author, again)
    rows = rows_of_episodes(folder)
    assert list(rows) == ["before, greedy", "after, greedy", "train, sampled"]
    assert rows["after, greedy"][:5] == ["6", "5", "0", "1 (1 model)", "1 (1 server)"]
    assert rows["after, greedy"][5:] == ["60.0% [15.3, 92.6]", "50.0% [13.8, 86.2]"]
    assert rows["train, sampled"][:5] == ["7", "6", "0", "1 (1 author)", "1 (1 unknown)"]
    text = re.sub(r"\s+", " ", outline(folder / "report.html").text)
    assert "With discarded episodes as failures: before 25.0%" in text
    assert "after 50.0% [13.8, 86.2]" in text


def test_discards_after_the_model_acted_are_warned_of(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "run")
    stored(folder, episode("eval-9", "after", False, ending=Ending("fault", "EnvFault: x", "author")))
    text = outline(write_report(folder)).text
    assert "after, greedy: 1 of 5 episodes were discarded after the model had acted" in text
    assert "do not trust this success rate" in text


def test_a_failure_of_the_models_doing_is_named_in_the_transcript(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "run")
    lines = [json.loads(line) for line in (folder / "trajectories.jsonl").read_text().splitlines()]
    for line in lines:
        line["ending"] = (
            {"kind": "error", "detail": "content_filter", "who": ""} if not line["success"] else line["ending"]
        )
    (folder / "trajectories.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "not solved · reward 0 · content_filter" in outline(write_report(folder)).text


def test_a_bound_that_is_not_known_is_no_broken_metric(tmp_path: Path) -> None:
    rows = [
        {"step": n, "time_s": n, "stage": "eval", "version": n, "eval/success": 1.0, "eval/reward_mean": 1.0 - n / 4}
        | {f"eval/reward_mean_ci95_{side}": None if n == 1 else bound for side, bound in (("low", 0.1), ("high", 0.9))}
        for n in (1, 2)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    html = write_report(tmp_path).read_text()
    assert "Not finite" not in html
    hover = re.findall(r'data-hover="([^"]*)"', html)[1].replace("&quot;", '"')
    (points,) = [one["points"] for one in json.loads(hover) if one["name"] == "held-out tasks"]
    assert [point[:4] for point in points] == [[1, 0.75, 0.75, 0.75], [2, 0.5, 0.1, 0.9]]


def test_an_unfinished_run_with_torn_lines_and_nan(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    rows = [{"step": 1, "time_s": 1.0, "stage": "rl", "version": 1, "rollout/success": 0.5, "loss/policy": math.nan}]
    (folder / "metrics.jsonl").write_text(json.dumps(rows[0]) + '\n{"step": 2, "ti')
    (folder / "trajectories.jsonl").write_text(json.dumps(episode("t", "train", True)) + '\n{"env')
    text = outline(write_report(folder)).text
    assert "The run is not finished" in text
    assert "Not finite at some step: loss/policy" in text


def test_an_empty_run_and_a_folder_that_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    assert outline(write_report(tmp_path)).text
    with pytest.raises(StoreError, match="give the folder of a training run"):
        write_report(tmp_path / "absent")


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time_s": 0, "stage": "rl", "version": 1}\nnot json\n{}\n')
    with pytest.raises(StoreError, match=r"metrics\.jsonl, line 2"):
        write_report(tmp_path)


def test_smoothed_is_a_t_interval_of_the_last_steps() -> None:
    means, lows, highs = smoothed([1.0, 2.0, 4.0, 4.0, 4.0, 4.0, 4.0], window=3)
    assert means == pytest.approx([1, 1.5, 7 / 3, 10 / 3, 4, 4, 4])
    assert [math.isnan(low) for low in lows] == [True, True, False, False, False, False, False]
    # 1, 2, 4: standard deviation 1.527525; three equal values: no width.
    assert highs[2] - means[2] == pytest.approx(4.303 * 1.527525 / math.sqrt(3), rel=1e-4)
    assert (lows[-1], highs[-1]) == (4, 4)


def test_an_interval_that_is_not_known_is_not_drawn(tmp_path: Path) -> None:
    rows = [
        {"step": n, "time_s": n, "stage": "rl", "version": n, "rollout/success": y} for n, y in ((1, 0.5), (2, 1.0))
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (chart,) = re.findall(r'<svg class="chart".*?</svg>', write_report(tmp_path).read_text())
    hover = re.search(r'data-hover="([^"]*)"', chart)
    assert hover is not None
    points = json.loads(hover.group(1).replace("&quot;", '"'))[0]["points"]
    assert [point[:4] for point in points] == [[1, 0.5, 0.5, 0.5], [2, 0.75, 0.75, 0.75]]
