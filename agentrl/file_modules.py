"""Imports of a Python file that is loaded by its path: modules that stand next to it are its own.

Two files in different folders may each have a `helpers.py` beside them. The first keeps the name `helpers`; that of the
other folder gets a name of its own in `sys.modules`. Does not see `importlib.import_module`, which takes no notice of
who calls it.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

IMPORTER = __file__
"""The file whose frame stands in a traceback between an `import` that fails and its author's line."""
_SITES = ("site-packages", "dist-packages")
INSTALLED = tuple(
    os.path.join(folder, "")
    for folder in {
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        # Further ones: of the user, of the system, of another environment on the path.
        *(os.path.abspath(path) for path in sys.path if os.path.basename(os.path.normpath(path)) in _SITES),
    }
)
"""Folders of Python's own and of installed modules, each with a separator at its end."""
_PREFIX = "agentrl_folder_"


def own_imports(module: ModuleType, folder: Path) -> None:
    """Let a module that is about to run import what stands in its folder."""
    module.__dict__["__builtins__"] = _builtins_of(folder)


@cache
def _builtins_of(folder: Path) -> dict[str, Any]:
    """Python's builtins with an `import` that looks into a folder first, where the folder's module is hidden."""
    package = _package_of(folder)

    def import_here(
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        top = name.partition(".")[0]
        if level or not _is_hidden(folder, top):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        found = builtins.__import__(f"{package}.{name}", globals, locals, fromlist or (), 0)
        return found if fromlist else sys.modules[f"{package}.{top}"]

    return {**vars(builtins), "__import__": import_here}


def _package_of(folder: Path) -> str:
    """The name of a package that stands for a folder."""
    name = _PREFIX + hashlib.sha256(str(folder).encode()).hexdigest()[:8]
    if name not in sys.modules:
        package = ModuleType(name, f"The modules of {folder}.")
        package.__path__ = [str(folder)]
        sys.modules[name] = package
        if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
            sys.meta_path.insert(0, _Finder())
    return name


def _is_hidden(folder: Path, top: str) -> bool:
    """Whether a folder has a module of this name, and another one, or none, would be imported."""
    if top in sys.stdlib_module_names or top == __name__.partition(".")[0]:
        return False
    beside = next((path for path in (folder / f"{top}.py", folder / top / "__init__.py") if path.is_file()), None)
    return beside is not None and _file_of(top) != beside.resolve()


def _file_of(top: str) -> Path | None:
    """The file that `import top` reads."""
    try:
        spec = importlib.util.find_spec(top)
    except (ValueError, ImportError):  # a module that was made without a spec
        return None
    return None if spec is None or spec.origin is None else Path(spec.origin).resolve()


class _Finder:
    """Finds modules of folders. What such a module imports is looked for in its folder as well."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not name.startswith(_PREFIX):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            folder = sys.modules[name.partition(".")[0]].__path__[0]
            spec.loader = _Loader(name, spec.loader.path, Path(folder))
        return spec


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, folder: Path) -> None:
        super().__init__(name, path)
        self._folder = folder

    def exec_module(self, module: ModuleType) -> None:
        own_imports(module, self._folder)
        super().exec_module(module)
