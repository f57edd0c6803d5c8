"""The code in README and docs/ runs as printed; configurations load; links lead somewhere; commands exist."""

from __future__ import annotations

import dataclasses
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from agentrl.cli import main
from agentrl.config import load_config
from agentrl.training.config import EnvConfig, TrainConfig

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.M | re.S)


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
def test_configurations_load(page: Path, tmp_path: Path) -> None:
    for text in blocks(page, "toml"):
        (tmp_path / "run.toml").write_text(text)
        assert load_config(TrainConfig, tmp_path / "run.toml").env.id


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


def test_the_settings_page_names_every_setting_and_its_default() -> None:
    """Each key stands in its section's table, and a default that the table gives is the one of the code."""
    text = (ROOT / "docs" / "train.md").read_text(encoding="utf-8")
    for section in dataclasses.fields(TrainConfig):
        if section.name == "seed":
            continue
        table = text.partition(f"| `[{section.name}]` |")[2].partition("\n\n")[0]
        kind = EnvConfig if section.name == "env" else type(section.default)
        rows = {key: row for row in table.splitlines()[2:] for key in re.findall(r"`(\w+)`", row.split("|")[1])}
        assert set(rows) == {field.name for field in dataclasses.fields(kind)}
        for row in set(rows.values()):
            keys, values = re.findall(r"`(\w+)`", row.split("|")[1]), row.split("|")[2].replace("`", "").split(", ")
            for key, value in zip(keys, values, strict=False):
                default = next(field for field in dataclasses.fields(kind) if field.name == key).default
                if isinstance(default, bool):
                    assert value.strip() == str(default).lower(), key
                elif isinstance(default, int | float) and "see below" not in row:
                    assert float(value) == default, key
