"""One registry for every kind of part: what a name stands for, and what is said where it stands for nothing."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest

from agentrl.errors import ConfigError, ModelError
from agentrl.registry import Registry, load_reference


@pytest.fixture
def colours() -> Registry:
    return Registry("colour", "test.colours", {"red": "decimal:Decimal", "gone": "decimal:Nothing"})


def test_a_built_in_name_is_imported_when_asked_for(colours):
    from decimal import Decimal

    assert colours.names == ["gone", "red"]
    assert colours.find("red") is Decimal


def test_a_given_object_replaces_a_name(colours):
    colours.register("red", "mine")
    assert colours.find("red") == "mine"
    assert colours.names == ["gone", "red"]


def test_references_into_modules_and_files(colours, tmp_path):
    (tmp_path / "mine.py").write_text("BLUE = object()\n")
    blue = colours.find(f"{tmp_path}/mine.py:BLUE")
    assert colours.find(f"{tmp_path}/mine.py:BLUE") is blue  # a file is imported once
    assert colours.find("fractions:Fraction").__name__ == "Fraction"


def test_a_part_of_a_file_is_named_by_its_path(colours, tmp_path, monkeypatch):
    """Another process, in another folder, finds it by that name."""
    (tmp_path / "own.py").write_text("class Blue: pass\n")
    monkeypatch.chdir(tmp_path)
    blue = colours.find("./own.py:Blue")
    assert colours.name_of(blue) == f"{tmp_path}/own.py:Blue"
    assert colours.find(colours.name_of(blue)) is blue


def test_an_entry_point_is_loaded_when_asked_for(colours, monkeypatch):
    entry = EntryPoint("green", "fractions:Fraction", "test.colours")
    broken = EntryPoint("broken", "no_such_module:X", "test.colours")
    monkeypatch.setattr("agentrl.registry.entry_points", lambda group: [entry, broken])
    assert colours.names == ["broken", "gone", "green", "red"]
    assert colours.find("green").__name__ == "Fraction"
    with pytest.raises(ConfigError, match="'broken' is declared by an installed package, but 'no_such_module:X'"):
        colours.find("broken")


def test_what_leads_nowhere_is_named(colours, tmp_path):
    with pytest.raises(ConfigError, match=r"no colour is named 'rde'. Did you mean 'red'\?"):
        colours.find("rde")
    with pytest.raises(ConfigError, match="no module 'no_such'"):
        colours.find("no_such:Thing")
    with pytest.raises(ConfigError, match=r"decimal has no 'Decimla'. Did you mean 'Decimal'\?"):
        colours.find("decimal:Decimla")
    with pytest.raises(ConfigError, match="there is no file"):
        colours.find(f"{tmp_path}/none.py:X")
    with pytest.raises(ModelError):
        Registry("colour", "test.colours", {}, error=ModelError).find("x")


def test_an_error_inside_a_module_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import surely_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed"):
        load_reference("needs_more:X")
    assert "needs_more" not in sys.modules


def test_a_file_imports_what_stands_next_to_it_and_hides_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "next_to_it.py").write_text("class Part:\n    pass\n")
    (tmp_path / "json.py").write_text("raise RuntimeError('this is not the standard library')\n")
    (tmp_path / "own.py").write_text("import json\n\nfrom next_to_it import Part\n\nText = json.dumps\n")
    assert load_reference(f"{tmp_path / 'own.py'}:Part").__module__ == "next_to_it"
    assert load_reference(f"{tmp_path / 'own.py'}:Text")({}) == "{}"
    monkeypatch.delitem(sys.modules, "next_to_it")
