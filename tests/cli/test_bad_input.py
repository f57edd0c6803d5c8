"""What users get wrong, or find broken: a message that says what to do, a documented exit code, and no file lost."""

from __future__ import annotations

import json
import shutil
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner, Result

from agentrl.cli import main
from agentrl.policy.model_folder import save
from agentrl.policy.tiny import build_tiny, build_tokenizer
from tests.policy.chat_server import ChatServer

ENV = "agentrl/Calculator-v0"
WRONG_KEY = {"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}}
NO_MODEL = {"error": {"message": "The model 'gpt-9' does not exist", "code": "model_not_found"}}


class Case(NamedTuple):
    """Attributes: words: of the command, `{}` is the server; told: parts of the message; code: exit code."""

    words: tuple[str, ...]
    told: tuple[str, ...]
    code: int = 1


SERVED = ("--policy", "openai:gpt-9", "--base-url")
CASES = {
    "unreachable server": Case(
        ("bench", ENV, *SERVED, "{closed}", "--tasks", "2", "--out", "new"),
        ("no server answers at", "start it, or correct the base URL"),
    ),
    "no key": Case(("bench", ENV, *SERVED, "{key}", "--tasks", "2", "--out", "new"), ("401", "OPENAI_API_KEY")),
    "no key for a service, and no network": Case(
        ("bench", ENV, "--policy", "openai:gpt-9", "--api-key-env", "NO_SUCH_KEY", "--tasks", "2", "--out", "new"),
        ("https://api.openai.com/v1 needs a key: set the environment variable NO_SUCH_KEY",),
    ),
    "argument of an environment in the wrong table": Case(
        ("train", "level.toml", "--out", "new"),
        ("unknown key 'env.level' in [env]", "An argument of what it names stands in [env.kwargs]"),
    ),
    "model folder with the tokenizer of another model": Case(
        ("bench", ENV, "--policy", "local:other-tokenizer", "--tasks", "1", "--out", "new"),
        ("tokens beyond the", "it belongs to another model"),
    ),
    "wrong key": Case(
        ("bench", ENV, *SERVED, "{key}", "--tasks", "2", "--out", "new"), ("401", "set it to a valid key")
    ),
    "unknown model": Case(
        ("bench", ENV, *SERVED, "{model}", "--tasks", "2", "--out", "new"), ("404", "Check the model name 'gpt-9'")
    ),
    "model folder that is missing": Case(
        ("bench", ENV, "--policy", "local:nowhere", "--out", "new"), ("there is no folder 'nowhere'",)
    ),
    "model folder without weights": Case(
        ("bench", ENV, "--policy", "local:no-weights", "--tasks", "1", "--out", "new"), ("no-weights", "weights")
    ),
    "model folder with half the weights": Case(
        ("bench", ENV, "--policy", "local:half-weights", "--tasks", "1", "--out", "new"),
        ("half-weights", "cut off or damaged: download or copy it again"),
    ),
    "model folder without tokenizer": Case(
        ("bench", ENV, "--policy", "local:no-tokenizer", "--tasks", "1", "--out", "new"), ("no-tokenizer", "tokenizer")
    ),
    "model folder with half a configuration": Case(
        ("bench", ENV, "--policy", "local:half-config", "--tasks", "1", "--out", "new"), ("half-config", "config.json")
    ),
    "runs over different tasks": Case(
        ("compare", "one", "train"), ("no task was played by both", "the same split, seed and number of tasks")
    ),
    "runs of different environments": Case(
        ("compare", "one", "guess"), ("Calculator-v0", "Guess-v0", "Play both on one environment")
    ),
    "run that is no benchmark": Case(("compare", "one", "empty"), ("empty",)),
    "suite with an unknown environment": Case(
        ("bench", "suite.toml", "--out", "new"), ("[envs.sums]", "Did you mean 'agentrl/Calculator-v0'?")
    ),
    "audit of that suite": Case(("audit", "suite.toml"), ("[envs.sums]", "Did you mean 'agentrl/Calculator-v0'?")),
    "suite with an unknown key": Case(("bench", "key.toml", "--out", "new"), ("key.toml", "unknown key 'tasks'")),
    "suite that is no TOML": Case(("bench", "torn.toml", "--out", "new"), ("torn.toml",)),
    "suite that is missing": Case(("bench", "nowhere.toml", "--out", "new"), ("nowhere.toml",)),
    "report of a store with a broken line": Case(("report", "broken"), ("line 2", "Delete that line in a copy")),
    "replay of a store with a broken line": Case(("replay", "broken"), ("line 2", "Delete that line in a copy")),
    "rescoring of a store with a broken line": Case(
        ("rescore", "broken", "--rubric", "recorded", "--out", "new"), ("line 2", "Delete that line in a copy")
    ),
    "benchmark that would go on after a broken line": Case(
        ("bench", ENV, "--tasks", "2", "--no-references", "--out", "broken"), ("line 2", "Delete that line in a copy")
    ),
    "folder with half a summary": Case(("report", "half"), ("half/summary.json", "is no benchmark")),
    "folder of somebody else": Case(("bench", ENV, "--tasks", "1", "--out", "foreign"), ("foreign", "another folder")),
    "store of one run that ends within a line": Case(("report", "torn", "--out", "new.html"), (), 0),
    "replay of a store that ends within a line": Case(("replay", "torn"), (), 0),
    "place that view does not find": Case(("view", "nowhere", "--no-browser"), ("there is no nowhere",)),
    "option with a wrong value": Case(("bench", ENV, "--trials", "none", "--out", "new"), ("--trials",), 2),
}


def call(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs, suites and model folders, some of them broken."""
    root = tmp_path_factory.mktemp("made")
    for name, env, split in (("one", ENV, "eval"), ("train", ENV, "train"), ("guess", "agentrl/Guess-v0", "eval")):
        played = call("bench", env, "--split", split, "--tasks", "2", "--no-references", "--out", str(root / name))
        assert played.exit_code == 0, played.output
    for name in ("torn", "broken", "half"):
        shutil.copytree(root / "one", root / name)
    with (root / "torn" / "trajectories.jsonl").open("a") as store:
        store.write('{"format": 4, "env')
    lines = (root / "one" / "trajectories.jsonl").read_text().splitlines()
    (root / "broken" / "trajectories.jsonl").write_text("\n".join([lines[0], lines[1][:60], *lines[2:], ""]))
    (root / "half" / "summary.json").write_text((root / "one" / "summary.json").read_text()[:300])
    save(root / "model", *build_tiny(["1 + 2"], hidden_size=16, num_layers=1))
    for name in ("no-weights", "half-weights", "no-tokenizer", "half-config", "other-tokenizer"):
        shutil.copytree(root / "model", root / name)
    (root / "no-weights" / "model.safetensors").unlink()
    weights = (root / "model" / "model.safetensors").read_bytes()
    (root / "half-weights" / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    for file in (root / "no-tokenizer").glob("tokenizer*"):
        file.unlink()
    (root / "half-config" / "config.json").write_text((root / "model" / "config.json").read_text()[:80])
    longer = build_tokenizer(["the cheapest offer that has enough stock in the whole warehouse"] * 9, vocab_size=900)
    longer.save_pretrained(root / "other-tokenizer")
    (root / "level.toml").write_text('[env]\nid = "agentrl/Calculator-v0"\nlevel = 2\n')
    (root / "suite.toml").write_text('[envs.sums]\nid = "agentrl/Calcluator-v0"\n')
    (root / "key.toml").write_text(f'tasks = 3\n[envs.sums]\nid = "{ENV}"\n')
    (root / "torn.toml").write_text('[envs.sums]\nid = "agentrl/Calc')
    (root / "empty").mkdir()
    (root / "foreign").mkdir()
    (root / "foreign" / "thesis.txt").write_text("years of work")
    return root


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, str]]:
    """Addresses: one where nothing listens, and of servers that refuse the key, or do not know the model."""
    with ExitStack() as stack, socket.create_server(("127.0.0.1", 0)) as free:
        found = {"closed": f"http://127.0.0.1:{free.getsockname()[1]}/v1"}
        free.close()
        for name in ("key", "model"):
            server = ChatServer()
            server.start()
            stack.callback(server.kill)
            found[name] = server.url
        yield found


def script(url: str, answer: dict[str, Any], status: int) -> None:
    body = json.dumps([{"status": status, "json": answer}] * 20).encode()
    urllib.request.urlopen(urllib.request.Request(url.removesuffix("/v1") + "/script", body)).close()


def files(root: Path) -> dict[str, bytes]:
    """What stands in a folder, but for the records of new runs and marks of runs at work."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
        and not path.name.startswith(".")
        and path.relative_to(root).parts[0] not in ("new", "new.html")
    }


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_mistake_is_told_and_costs_nothing(
    case: Case, made: Path, servers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
    if case is CASES["no key"]:
        monkeypatch.delenv("OPENAI_API_KEY")
    script(servers["key"], WRONG_KEY, 401)
    script(servers["model"], NO_MODEL, 404)
    before = files(made)
    result = call(*(word.format(**servers) for word in case.words))
    after = files(made)
    shutil.rmtree(made / "new", ignore_errors=True)
    said = result.stderr
    assert result.exit_code == case.code, said
    assert [part for part in case.told if part not in said] == [], said
    assert "Traceback" not in said
    assert "sk-wrong" not in result.output
    assert {name: text for name, text in before.items() if after.get(name) != text} == {}, "a file was lost"
    if case.code == 1:
        assert len(said.strip().splitlines()[-1]) < 700
        assert set(after) == set(before) | {name for name in after if name == "report.html"}
