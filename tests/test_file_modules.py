"""Files that are loaded by their path, each with the modules that stand next to it."""

from __future__ import annotations

import inspect
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from agentrl.registry import load_reference


@pytest.fixture(autouse=True)
def tidy(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def folder(root, name, word):
    made = root / name
    (made / "kit").mkdir(parents=True)
    (made / "words.py").write_text(f"WORD = {word!r}\nclass Held:\n    pass\n")
    (made / "helpers.py").write_text("import words\nfrom kit import deep\nimport kit.more\nWORD = words.WORD\n")
    (made / "kit" / "__init__.py").write_text("")
    (made / "kit" / "deep.py").write_text("from . import more\nimport words\nWORD = words.WORD + more.MORE\n")
    (made / "kit" / "more.py").write_text("MORE = '!'\n")
    (made / "json.py").write_text("raise RuntimeError('not the standard library')\n")
    (made / "env.py").write_text(
        "import json\nimport helpers, kit.deep\nfrom words import Held\nfrom helpers import *\n"
        "def words():\n    import words as late\n"
        "    return helpers.WORD, kit.deep.WORD, late.WORD, WORD, json.dumps(1)\n"
    )
    return f"{made / 'env.py'}"


def test_helpers_of_the_same_name_do_not_mix(tmp_path):
    files = [folder(tmp_path, name, name) for name in ("one", "two", "three")]
    found = [load_reference(f"{file}:words") for file in files]
    assert [words() for words in found] == [(n, n + "!", n, n, "1") for n in ("one", "two", "three")]
    held = [load_reference(f"{file}:Held") for file in files]
    assert len(set(held)) == 3
    for one in held:
        assert type(pickle.loads(pickle.dumps(one()))) is one
        assert inspect.getsource(one).startswith("class Held")


def test_a_helper_that_is_missing_or_fails_is_told_as_ever(tmp_path):
    file = folder(tmp_path, "one", "one")
    (tmp_path / "one" / "words.py").write_text("import there_is_no_such_thing\n")
    with pytest.raises(ModuleNotFoundError, match="there_is_no_such_thing"):
        load_reference(f"{file}:words")
    (tmp_path / "one" / "words.py").write_text("WORD = 'mended'\nHeld = 1\n")
    assert load_reference(f"{file}:words")()[0] == "mended"


def test_libraries_of_every_folder_on_the_path_are_no_code_of_an_author(tmp_path: Path) -> None:
    for name in ("site-packages", "dist-packages", "mine"):
        (tmp_path / name).mkdir()
    paths = os.pathsep.join(str(tmp_path / name) for name in ("site-packages", "dist-packages", "mine"))
    program = "from agentrl.file_modules import INSTALLED; print(*INSTALLED, sep='\\n')"
    environ = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    found = set(done.stdout.splitlines())
    assert {os.path.join(tmp_path, name, "") for name in ("site-packages", "dist-packages")} <= found
    assert os.path.join(tmp_path, "mine", "") not in found
    assert os.path.join(os.path.dirname(os.__file__), "") in found
