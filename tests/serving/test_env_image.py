"""The Dockerfile of an environment."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from agentrl.cli import main
from agentrl.errors import ConfigError
from agentrl.serving.env_image import dockerfile


def test_a_bundled_environment() -> None:
    text = dockerfile("agentrl/Shop-v0", ["max_turns=3"])
    assert 'RUN pip install --no-cache-dir --find-links /wheels "agentrl[viewer]==0.1.0"\n' in text
    assert "ARG BASE=python:3.11-slim\nFROM ${BASE}\nCOPY Dockerfile *.whl /wheels/\n" in text
    command = '["agentrl", "serve", "agentrl/Shop-v0", "--host", "0.0.0.0", "--port", "8765", "--allow-host", "*", '
    assert f'ENTRYPOINT {command}"--kwarg", "max_turns=3"]' in text
    assert text.index("USER served") < text.index("ENTRYPOINT")


def test_an_environment_with_a_sandbox_gets_bubblewrap_and_may_make_namespaces() -> None:
    text = dockerfile("agentrl/FunctionSynthesis-v0")
    assert "docker run --rm --security-opt seccomp=unconfined --security-opt systempaths=unconfined -p" in text
    assert text.index("bubblewrap") < text.index("USER served")
    assert "bubblewrap" not in dockerfile("agentrl/Shop-v0")
    assert "--security-opt" not in dockerfile("agentrl/Shop-v0")


def test_a_file_is_copied_and_one_elsewhere_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (Path(__file__).parent / "envs" / "odd.py").read_text()
    (tmp_path / "mine.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    text = dockerfile("./mine.py:Odd")
    assert 'COPY ["mine.py", "./mine.py"]' in text
    assert '"./mine.py:Odd"' in text
    with pytest.raises(ConfigError, match="not in the folder"):
        dockerfile(f"{tmp_path}/mine.py:Odd")


def test_the_command_prints_it_and_serves_nothing() -> None:
    done = CliRunner().invoke(main, ["serve", "agentrl/Shop-v0", "--dockerfile"], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.stdout.startswith("# Serves agentrl/Shop-v0")
