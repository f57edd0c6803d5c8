"""`agentrl new-env`: an installable package with an environment, its entry point and its test."""

from __future__ import annotations

import keyword
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import click
from jinja2 import Environment, PackageLoader, StrictUndefined

from agentrl.cli.boundary import debug_option, say
from agentrl.errors import ConfigError
from agentrl.rollout.lock import is_empty

_NAME = re.compile(r"(?:(?P<namespace>[A-Za-z][\w-]*)/)?(?P<name>[A-Za-z][\w-]*?)(?P<version>-v\d+)?")
_FILES = {
    "pyproject.toml.jinja": "pyproject.toml",
    "README.md.jinja": "README.md",
    "environment.py.jinja": "{module}.py",
    "test_environment.py.jinja": "tests/test_{module}.py",
}


@dataclass(frozen=True)
class Names:
    """The names of one environment: id `my/TicketOffice-v0`, folder, module and class."""

    env_id: str
    project: str
    module: str
    class_name: str

    @classmethod
    def of(cls, name: str) -> Names:
        """Names from what a person typed: `ticket-office`, `TicketOffice` or `acme/TicketOffice-v1`.

        Raises: ConfigError if it cannot be a Python module.
        """
        match = _NAME.fullmatch(name)
        if match is None:
            raise ConfigError(f"{name!r} cannot name an environment; write ticket-office or acme/TicketOffice-v0")
        words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+|[A-Z]", match["name"])
        module = "_".join(word.lower() for word in words)
        if module in sys.stdlib_module_names or keyword.iskeyword(module) or module in ("agentrl", "gymnasium"):
            raise ConfigError(f"{name!r} would hide Python's own module {module!r}; choose another name")
        class_name = "".join(word[0].upper() + word[1:] for word in words)
        env_id = f"{match['namespace'] or 'my'}/{class_name}{match['version'] or '-v0'}"
        return cls(env_id, module.replace("_", "-"), module, class_name)


@click.command("new-env")
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder; ./NAME by default.")
@debug_option
def command(name: str, out: Path | None) -> None:
    """Start a package with an environment of your own, called NAME (ticket-office, acme/TicketOffice-v0).

    It works as generated: it passes `agentrl check` and its own test.
    """
    names = Names.of(name)
    folder = out or Path(names.project)
    scaffold(names, folder)
    say(f"Made {folder} with the environment {names.env_id}. Next:")
    say(f"  cd {folder}")
    say(f"  agentrl check ./{names.module}.py:{names.class_name}")
    say(f"  agentrl play ./{names.module}.py:{names.class_name}")
    say(f"  pip install -e . && agentrl train {names.env_id}")


def scaffold(names: Names, folder: Path) -> list[Path]:
    """Write the package. Returns: the files. Raises: ConfigError if the folder is not empty, or is no folder."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; choose another with --out")
    if not is_empty(folder):
        raise ConfigError(f"{folder} exists and is not empty; choose another with --out")
    templates = Environment(
        loader=PackageLoader("agentrl.cli", "scaffold"), undefined=StrictUndefined, keep_trailing_newline=True
    )
    written = []
    for template, pattern in _FILES.items():
        path = folder / pattern.format(module=names.module)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(templates.get_template(template).render(names=names), encoding="utf-8")
        written.append(path)
    return written
