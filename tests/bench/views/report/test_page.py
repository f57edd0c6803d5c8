"""The page of benchmarks: numbers without a script, transcripts inside, small, inert, and without network."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agentrl.bench.audit import audit
from agentrl.bench.compare import comparisons
from agentrl.bench.folder import SUMMARY
from agentrl.bench.records import read_record
from agentrl.bench.runner import run_bench
from agentrl.bench.views.report.packed import unpacked
from agentrl.bench.views.report.page import write_bench_report, write_picture
from agentrl.bench.views.report.runs import longest_text
from agentrl.cli import main
from agentrl.errors import ConfigError
from tests.bench.toys import Adder, Some
from tests.bench.views.report.generated import HOSTILE, Ledger, Writer


class Page(HTMLParser):
    """What a browser would see of a page, without its script."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = self.packed = ""
        self._within = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.words = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._within = "packed" if dict(attrs).get("id") == "packed" else tag

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within == "packed":
            self.packed += data
        elif self._within not in ("style", "script"):
            self.text += data

    @property
    def data(self) -> Any:
        return unpacked(self.packed)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two agents on 40 tasks of 4 trials."""
    root = tmp_path_factory.mktemp("runs")
    for name, skill in (("good", 0.9), ("poor", 0.4)):
        run_bench(Ledger, Writer(name, skill), out=root / name, num_tasks=40, trials=4)
    return root / "good", root / "poor"


def test_the_numbers_stand_in_the_page_itself(folders: tuple[Path, Path]) -> None:
    result = json.loads((folders[0] / "summary.json").read_text())
    page = Page(write_bench_report([folders[0]], folders[0] / "report.html"))
    assert f"{100 * result['success']['mean']:.1f}% [{100 * result['success']['ci95'][0]:.1f}" in page.words
    for part in (
        "pass^k (all succeed)",
        "cut off: max_turns",
        "answered, but not solved",
        "book",
        "Flaky tasks",
        "of 4",
    ):
        assert part in page.words, part
    assert "No audit was run, so nothing shows that a score on Ledger means something: agentrl audit" in page.words
    assert {"svg", "table"} <= {tag for tag, _ in page.tags}


def test_every_episode_is_packed_with_its_transcript_and_its_states(folders: tuple[Path, Path]) -> None:
    data = Page(write_bench_report(folders, folders[0] / "both.html")).data
    assert [run["policy"] for run in data["runs"]] == ["good", "poor"]
    assert len(data["episodes"]) == 2 * 160
    one = next(e for e in data["episodes"] if e["task"].endswith("-20") or e["kind"] == "answer")
    assert one["messages"][0]["content"].startswith("Book ")
    assert one["family"].startswith("family ")
    changed = next(message["state"] for message in one["messages"] if "state" in message)
    amount = int(one["messages"][0]["content"].split()[1].rstrip(","))
    if amount:
        assert changed == [["-", "balance=100,"], ["+", f"balance={100 + amount},"], ["=", " currency=EUR"]]
    assert one["tools"]["book"][0] >= 1


def test_runs_side_by_side_and_their_difference(folders: tuple[Path, Path]) -> None:
    found = comparisons([read_record(folder) for folder in folders])
    page = Page(write_bench_report(folders, folders[0] / "compared.html", found))
    difference = found[0].difference
    assert f"{100 * difference.mean:.1f}% [{100 * difference.low:.1f}, {100 * difference.high:.1f}]" in page.words
    assert "family 0" in page.text
    assert "p = " in page.text
    assert "tasks on which good is better" in page.words


def test_texts_of_models_are_data_and_nothing_leaves_the_page(folders: tuple[Path, Path]) -> None:
    page = Page(write_bench_report(folders, folders[0] / "both.html"))
    assert "img" not in {tag for tag, _ in page.tags}
    (policy,) = [attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", page.source))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    assert not {"src", "href"} & {name for _, attrs in page.tags for name in attrs}
    assert not set("\x1b\u202e") & set(page.source)
    said = {message.get("content") for e in page.data["episodes"] for message in e["messages"]}
    assert HOSTILE.replace("\x1b", "\\u001b").replace("\u202e", "\\u202e") in said  # whole, and inert in a terminal
    assert "innerHTML" not in page.source


def test_a_browser_without_decompression_is_told(folders: tuple[Path, Path]) -> None:
    page = Page(write_bench_report([folders[0]], folders[0] / "report.html"))
    assert "need JavaScript and DecompressionStream" in page.words
    assert ("section", {"id": "episodes", "hidden": None}) in page.tags


@pytest.mark.slow
@pytest.mark.parametrize(("length", "cut"), [(60, False), (20_000, True)])
def test_a_thousand_episodes_stay_below_15_megabytes(tmp_path: Path, length: int, cut: bool) -> None:
    run_bench(Ledger, Writer("writer", 0.6, length), out=tmp_path / "run", trials=4, references=False)
    path = write_bench_report([tmp_path / "run"], tmp_path / "page.html")
    assert path.stat().st_size < (15_000_000 if cut else 2_000_000)
    page = Page(path)
    assert len(page.data["episodes"]) == 1000
    assert ("characters are cut, so that this page stays small" in page.words) == cut


def test_the_verdict_of_an_audit_is_shown(tmp_path: Path) -> None:
    run_bench("agentrl/Guess-v0", "null", out=tmp_path, num_tasks=3, references=False)
    found = audit("agentrl/Guess-v0", num_tasks=3).to_json()
    for text, tone, said in (
        (found, "good" if found["ok"] else "bad", f"Audit ({len(found['checks'])} checks on 3 tasks)"),
        (
            {**found, "ok": False, "flaws": [{"severity": "error", "kind": "x", "problem": "<b>"}]},
            "bad",
            "error [x] <b>",
        ),
        ({**found, "env": {"id": "other/Env-v0"}}, "unknown", "The audit is of other/Env-v0"),
    ):
        (tmp_path / "audit.json").write_text(json.dumps(text))
        page = Page(write_bench_report([tmp_path], tmp_path / "report.html"))
        assert ("p", {"class": f"banner {tone}", "role": "status"}) in page.tags
        assert said in page.words
    (tmp_path / "audit.json").write_text(json.dumps(found))
    run_bench("agentrl/Guess-v0", "oracle", out=tmp_path / "other", num_tasks=3, references=False)
    both = Page(
        write_bench_report([tmp_path / "other", tmp_path], tmp_path / "both.html")
    )  # one audit is enough for both
    assert sum("banner" in (attrs.get("class") or "") and attrs.get("role") == "status" for _, attrs in both.tags) == 1
    (tmp_path / "audit.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"audit\.json is no result of `agentrl audit --json`"):
        write_bench_report([tmp_path], tmp_path / "report.html")


def test_the_commands(tmp_path: Path) -> None:
    for name, right in (("a", 6), ("b", 3)):
        run_bench(Adder, Some(right=right), out=tmp_path / name)
    one, other = str(tmp_path / "a"), str(tmp_path / "b")
    assert CliRunner().invoke(main, ["report", one]).exit_code == 0
    assert len(Page(tmp_path / "a" / "report.html").data["episodes"]) == 8
    result = CliRunner().invoke(main, ["report", one, other, "--out", str(tmp_path / "x.html"), "--json"])
    assert json.loads(result.stdout) == {
        "report": str(tmp_path / "x.html"),
        "bytes": (tmp_path / "x.html").stat().st_size,
    }
    compared = CliRunner().invoke(main, ["compare", one, other, "--report", str(tmp_path / "y.html")])
    assert compared.exit_code == 0, compared.output
    assert "some minus some" in Page(tmp_path / "y.html").words
    picture = CliRunner().invoke(main, ["compare", one, other, "--report", str(tmp_path / "y.svg")])
    assert picture.exit_code == 0, picture.output
    svg = (tmp_path / "y.svg").read_text()
    assert "+37.5%" in svg
    assert svg.startswith('<svg class="forest"')
    missing = CliRunner().invoke(main, ["report", str(tmp_path / "absent")])
    assert missing.exit_code == 1
    assert "there is no folder" in missing.stderr


def test_runs_whose_folders_have_one_name_are_told_apart(tmp_path: Path) -> None:
    for suite in ("first", "second"):
        run_bench(Adder, Some(), out=tmp_path / suite / "sums", references=False)
    page = Page(write_bench_report([tmp_path / name / "sums" for name in ("first", "second")], tmp_path / "x.html"))
    assert [run["name"] for run in page.data["runs"]] == ["first/sums", "second/sums"]
    twice = Page(write_bench_report([tmp_path / "first" / "sums"] * 2, tmp_path / "x.html"))
    assert [run["name"] for run in twice.data["runs"]] == ["sums", "sums"]


def test_a_summary_names_its_folder(tmp_path: Path) -> None:
    run_bench(Adder, Some(), out=tmp_path / "sums", references=False)
    result = CliRunner().invoke(main, ["report", str(tmp_path / "sums" / "summary.json")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "sums" / "report.html").is_file()
    (tmp_path / "suite.json").write_text("{}")
    within = CliRunner().invoke(
        main, ["report", str(tmp_path / "sums"), "--out", str(tmp_path / "suite.json" / "x.html")]
    )
    assert (within.exit_code, "cannot write" in within.stderr) == (1, True)


def test_a_picture_of_rewards_is_in_their_unit(tmp_path: Path) -> None:
    for name, right in (("a", 6), ("b", 3)):
        run_bench(Adder, Some(right=right), out=tmp_path / name, references=False)
    found = comparisons([read_record(tmp_path / name) for name in ("a", "b")], "reward")
    text = write_picture(tmp_path / "x.svg", found).read_text()
    assert "+0.375" in text
    assert "%" not in text.partition("</style>")[2].replace("95% intervals", "")


def test_thoughts_that_are_cut_are_named_too() -> None:
    thought = {"role": "assistant", "content": "", "reasoning": "hm" * 300, "calls": []}
    assert longest_text(thought) == 600


def test_what_a_judge_said_stands_next_to_how_far_to_believe_it(tmp_path: Path) -> None:
    run_bench(Adder, "oracle", num_tasks=3, out=tmp_path / "one")
    run_bench(Adder, "null", num_tasks=3, out=tmp_path / "two")
    file = tmp_path / "one" / SUMMARY
    summary = json.loads(file.read_text())
    episodes = [
        json.loads(line)["episode_id"] for line in (tmp_path / "one" / "trajectories.jsonl").read_text().splitlines()
    ]
    share = {"mean": 0.75, "ci95": [0.5, 0.9], "n": 3}
    summary["judge"] = {
        "judge": "openai:grader",
        "score": share,
        "passed": share,
        "passed_of_all": share,
        "n_judged": 3,
        "failed": {"unreadable": 1},
        "labels": None,
        "environment": {"accuracy": share, "kappa": 0.5, "n": 3, "failed": 0},
        "verdicts": {name: {"score": 0.9, "passed": True, "reason": "It is <b>so</b>."} for name in episodes},
    }
    file.write_text(json.dumps(summary))
    page = Page(write_bench_report([tmp_path / "one", tmp_path / "two"], tmp_path / "page.html"))
    for words in (
        "judgeopenai:grader-",
        "without a verdict1 unreadable-",
        "agrees with labelsnot measured-",
        "kappa 0.50, n = 3",
    ):
        assert words in page.words
    judged = [episode["judged"] for episode in page.data["episodes"] if episode["run"] == 0]
    assert judged[0] == {"score": 0.9, "passed": True, "reason": "It is <b>so</b>."}
    assert "What a judge says" not in Page(write_bench_report([tmp_path / "two"], tmp_path / "two.html")).text
