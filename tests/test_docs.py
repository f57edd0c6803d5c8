"""The code in README and docs/ runs as printed; configurations load; links lead somewhere; commands exist."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from agentrl.bench.suites.suite import load_suite
from agentrl.cli import main
from agentrl.config import load_config
from agentrl.learning.credit.base import CREDITS
from agentrl.learning.importance import IMPORTANCES
from agentrl.learning.learner import LearnerSettings
from agentrl.learning.objectives.base import OBJECTIVES
from agentrl.learning.optimizers import Schedule
from agentrl.learning.shaping.base import SHAPINGS
from agentrl.registry import Registry
from agentrl.rollout.feedback.base import FEEDBACKS
from agentrl.rollout.sources.curriculum import Curriculum
from agentrl.rollout.sources.few_shot import FewShot
from agentrl.rollout.sources.forked import Forks
from agentrl.rollout.sources.levels import Levels
from agentrl.rollout.sources.mixed.weighting import WEIGHTINGS
from agentrl.rollout.sources.recorded import Recorded
from agentrl.sandbox import make_backend
from agentrl.serving.capture.settings import AgentConfig
from agentrl.training.algorithms import ALGORITHMS, stage_of
from agentrl.training.model_setup import LoRA, ModelConfig
from agentrl.training.plan import TrainConfig
from agentrl.training.settings import EnvConfig, MixedEnv, RunConfig, SamplingConfig, ScaleConfig
from agentrl.training.stages.base import STAGES
from agentrl.training.stages.canary import Canary
from agentrl.training.stages.expert import ExpertTerm
from agentrl.training.stages.playing import GrowingTurns, Playing
from agentrl.training.stages.reinforce import Reinforce

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.M | re.S)


def write_files(page: Path, folder: Path) -> None:
    """Save every block that begins with `# name` as that file."""
    for code in [*blocks(page, "python"), *blocks(page, "toml")]:
        if named := re.match(r"# (\w+\.(?:py|toml))\n", code):
            (folder / named.group(1)).write_text(code)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_python_runs_as_printed(page: Path, tmp_path: Path) -> None:
    """Blocks run in order in one folder, saved as their first line `# name.py` says; a server is not at hand."""
    for number, code in enumerate(blocks(page, "python")):
        named = re.match(r"# (\w+\.py)\n", code)
        path = tmp_path / (named.group(1) if named else f"block_{number}.py")
        path.write_text(code)
        if "localhost" in code:
            compile(code, path.name, "exec")
            continue
        result = subprocess.run(
            [sys.executable, path.name], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        assert result.returncode == 0, f"{page.name}, block {number}:\n{result.stderr}"


def test_the_loop_on_several_processes_runs_under_torchrun(tmp_path: Path) -> None:
    write_files(ROOT / "docs" / "your-own-training-loop.md", tmp_path)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "many.py"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stderr
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == ["step 0", "step 1", "step 2"]


@pytest.mark.parametrize(
    ("page", "target", "max_turns"), [("README.md", "till", 4), ("docs/write-an-environment.md", "library", 6)]
)
def test_environments_in_the_docs_can_be_made_and_measured(
    page: str, target: str, max_turns: int, tmp_path: Path
) -> None:
    (code,) = [block for block in blocks(ROOT / page, "python") if block.startswith(f"# {target}.py")]
    path = tmp_path / f"{target}.py"
    path.write_text(code)
    from agentrl.bench.evaluate import evaluate
    from agentrl.env import registry
    from agentrl.policy.scripted import NullPolicy, OraclePolicy

    env_id = f"{path}:{target.capitalize()}"
    env = registry.make(env_id)
    assert env.limits.max_turns == max_turns
    tasks = env.tasks.split("eval")[:20]
    assert evaluate(NullPolicy(), env_id, tasks).mean == 0.0
    if hasattr(env, "oracle"):
        assert evaluate(OraclePolicy(), env_id, tasks).mean == 1.0


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_configurations_load(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    for text in blocks(page, "toml"):
        (tmp_path / "run.toml").write_text(text)
        if text.startswith("# suite.toml"):
            assert load_suite(tmp_path / "run.toml").envs
            continue
        assert load_config(TrainConfig, tmp_path / "run.toml").env.id


def run_command(*words: str) -> str:
    """Standard output of an `agentrl` command."""
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout


TINY = {
    "model.hidden_size": 32,
    "model.num_layers": 1,
    "sampling.max_tokens": 16,
    "run.evaluate_every": 0,
    "run.tensorboard": "false",
    "stages.rl.steps": 1,
    "stages.rl.playing.prompts_per_step": 2,
    "stages.rl.playing.group_size": 2,
}


def tiny(stage: str, **more: object) -> list[str]:
    """Overrides that make a run last seconds; `stage` is the one that supervises."""
    supervised = {f"stages.{stage}.{name}": n for name, n in {"num_episodes": 16, "epochs": 1}.items()}
    return [word for key, value in {**TINY, **supervised, **more}.items() for word in ("--set", f"{key}={value}")]


def last_metrics(run: Path) -> dict[str, float]:
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])


def test_the_examples_of_the_architecture_page_work_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(ROOT / "docs" / "architecture.md", tmp_path)
    monkeypatch.chdir(tmp_path)
    run_command("train", "mine.toml", "--out", "run", *tiny("copy"))
    assert 0 <= last_metrics(tmp_path / "run")["eval/greedy_success"] <= 1
    command = ("bench", "./double.py:Double", "--measure", "./letters.py:Letters", "--json", "--out", "bench")
    result = json.loads(run_command(*command))
    assert result["success"]["mean"] == 1.0
    assert result["measures"]["letters"]["mean"] == 2.0  # the answers have two digits
    assert make_backend("./utc.py:UTC").isolates


@pytest.fixture
def readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the README; commands run in it."""
    write_files(ROOT / "README.md", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_environment_of_the_readme_passes_every_check(readme: Path) -> None:
    assert "nothing found" in run_command("check", "./till.py:Till")


def test_the_environment_of_the_readme_is_solved_by_its_oracle(readme: Path) -> None:
    result = json.loads(run_command("bench", "./till.py:Till", "--tasks", "20", "--json", "--out", "bench"))
    assert result["success"]["mean"] == 1.0
    assert result["references"]["null"]["success"]["mean"] == 0.0


def test_the_environment_of_the_readme_is_played_through_a_pipe(readme: Path) -> None:
    prices = "price item=tea\nprice item=mug\n"
    seen = CliRunner().invoke(main, ["play", "./till.py:Till"], input=prices)
    tea, mug = re.findall(r"^price: (\d+)$", seen.stdout, flags=re.M)
    played = CliRunner().invoke(main, ["play", "./till.py:Till"], input=f"{prices}{int(tea) + int(mug)}\n")
    assert played.exit_code == 0
    assert "Reward 1" in played.stdout


def test_the_environment_of_the_readme_trains_a_tiny_model(readme: Path) -> None:
    run_command("train", "./till.py:Till", "--out", "run", *tiny("warm_start", **{"stages.after.num_tasks": 4}))
    stages = [json.loads(line)["stage"] for line in (readme / "run" / "metrics.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(stages)) == ["warm_start", "before", "rl", "after"]


def test_the_tour_of_the_readme_makes_a_valid_call(readme: Path) -> None:
    """What `search` prints is a list of offers, not an error."""
    (tour,) = [code for code in blocks(ROOT / "README.md", "python") if code.startswith("import agentrl\n")]
    done = subprocess.run([sys.executable, "-c", tour], capture_output=True, text=True, check=True, timeout=120)
    assert re.match(r"Buy \d+ \w+\.\n(\w+ \d+\n){3}oracle Estimate\(mean=1\.0", done.stdout), done.stdout


@pytest.mark.parametrize(
    "line", [line for line in "".join(blocks(ROOT / "README.md", "sh")).splitlines() if "make" in line]
)
def test_make_knows_the_targets_of_the_readme(line: str) -> None:
    subprocess.run([*shlex.split(line, comments=True), "-n"], cwd=ROOT, capture_output=True, check=True, timeout=60)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_in_the_docs_parse(page: Path) -> None:
    """Every `agentrl …` line names a command and options that exist."""
    text = page.read_text()
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    lines += re.findall(r"`(agentrl [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S).replace("\n", " "))
    for line in lines:
        if not line.startswith("agentrl ") or "," in line:
            continue
        words = shlex.split(line.replace("\\", ""), comments=True)[1:]
        command = main.get_command(click.Context(main), words[0]) if words[0] != "COMMAND" else None
        if words[0] == "COMMAND":
            continue
        assert command is not None, line
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options | {"--help"}, line


SECTIONS = {
    "[env]": EnvConfig,
    "[envs]": MixedEnv,
    "[model]": ModelConfig,
    "[model.lora]": LoRA,
    "[agent]": AgentConfig,
    "[sampling]": SamplingConfig,
    "[run]": RunConfig,
    "[scale]": ScaleConfig,
    **{f'kind = "{name}"': STAGES.find(name) for name in STAGES.names},
    "playing": Playing,
    "canary": Canary,
    "expert": ExpertTerm,
    "curriculum": Curriculum,
    "levels": Levels,
    "few_shot": FewShot,
    "forks": Forks,
    "growing_turns": GrowingTurns,
    "data": Recorded,
    "learner": LearnerSettings,
    "schedule": Schedule,
}
PARTS = {
    "objective": OBJECTIVES,
    "credit": CREDITS,
    "importance": IMPORTANCES,
    "shaping": SHAPINGS,
    "feedback": FEEDBACKS,
    "weighting": WEIGHTINGS,
}


def settings_of(kind: type) -> dict[str, object]:
    """Name -> default of each field of a dataclass."""
    return {field.name: field.default for field in dataclasses.fields(kind)}


def rows_of(title: str) -> list[tuple[str, list[str], str]]:
    """(what stands before a colon, keys, defaults) of each row of the table with this title."""
    text = (ROOT / "docs" / "train.md").read_text(encoding="utf-8")
    table = text.partition(f"| `{title}` | default |")[2].partition("\n\n")[0]
    rows = [row.split("|")[1:3] for row in table.splitlines()[2:]]
    split = [(keys.rpartition(":")[0].strip("` "), keys.rpartition(":")[2], default) for keys, default in rows]
    return [(owner, re.findall(r"`(\w+)`", keys), default.replace("`", "").strip()) for owner, keys, default in split]


def check_defaults(keys: list[str], told: str, known: dict[str, object]) -> None:
    """The defaults that a row tells are those of the code, where they are numbers, words or none."""
    for key, value in zip(keys, told.split(", "), strict=False):
        default = known[key]
        if default is None or isinstance(default, bool):
            assert value == str(default).lower(), key
        elif isinstance(default, int | float):
            assert float(value) == default, key
        elif isinstance(default, str):
            assert value == default, key


@pytest.mark.parametrize("title", SECTIONS)
def test_the_settings_page_names_every_setting_and_its_default(title: str) -> None:
    known, rows = settings_of(SECTIONS[title]), rows_of(title)
    assert sorted(key for _, keys, _ in rows for key in keys) == sorted(known)
    for _, keys, told in rows:
        check_defaults(keys, told, known)


@pytest.mark.parametrize("title", PARTS)
def test_the_settings_page_names_every_setting_of_parts(title: str) -> None:
    """Every part that has settings of its own has a row with all of them."""
    registry, rows = PARTS[title], rows_of(title)
    known = {name: settings_of(registry.find(name)) for name in registry.names}
    assert {owner: sorted(keys) for owner, keys, _ in rows} == {
        name: sorted(settings) for name, settings in known.items() if settings
    }
    for owner, keys, told in rows:
        check_defaults(keys, told, known[owner])


def test_no_section_of_the_configuration_is_left_out_of_the_page() -> None:
    sections = {f"[{field.name}]" for field in dataclasses.fields(TrainConfig)} - {"[stages]", "[seed]", "[train_on]"}
    assert sections <= set(SECTIONS)


def test_the_page_of_algorithms_lists_each_with_what_it_stands_for() -> None:
    text = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
    table = text.partition("| algorithm | credit |")[2].partition("\n\n")[0]
    rows = [[cell.strip(" `") for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]
    assert sorted(row[0] for row in rows) == ALGORITHMS.names
    for name, credit, objective, weights, _, source in rows:
        stage = stage_of(name)
        assert objective.split(" ")[0] == OBJECTIVES.name_of(type(stage.objective))
        assert source == ALGORITHMS.find(name).source
        if isinstance(stage, Reinforce):
            assert (credit.split(" ")[0], weights) == (CREDITS.name_of(type(stage.credit)), stage.aggregation)


@pytest.mark.parametrize("registry", [CREDITS, OBJECTIVES, IMPORTANCES, SHAPINGS], ids=lambda r: r.kind)
def test_the_page_of_algorithms_names_every_part(registry: Registry) -> None:
    text = "\n".join((ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("algorithms.md", "train.md"))
    assert [name for name in registry.names if f"`{name}`" not in text] == []
