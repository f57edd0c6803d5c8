"""A stand-in for an installed package: files on `sys.path`, gone again after the test."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent
from types import ModuleType


def install(folder: Path, monkeypatch, package: str, files: dict[str, str]) -> None:
    """Write a package's files below a folder and make it importable; folders get an `__init__.py`."""
    for name, text in files.items():
        path = folder / package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text), encoding="utf-8")
    for place in [folder / package, *(folder / package).rglob("*")]:
        if place.is_dir():
            (place / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(folder))
    hidden = [name for name in sys.modules if name == package or name.startswith(package + ".")]
    for name in hidden:
        monkeypatch.delitem(sys.modules, name)


def forget(package: str, *adapters: ModuleType) -> None:
    """Remove what a fake left: its modules, and what adapters have cached of it."""
    for name in [name for name in sys.modules if name == package or name.startswith(package + ".")]:
        del sys.modules[name]
    for module in adapters:
        for value in vars(module).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()
