"""The external packages that judge: which versions, how each is installed, and where it is found. Installs nothing."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_NODE = "node@26"
"""The newest suite needs Node 22 or later, so each folder gets a Node of its own."""


@dataclass(frozen=True)
class External:
    """One package in an installation of its own.

    Attributes:
        packages: what is installed.
        python: version of Python that it needs; empty for any.
        is_npm: whether npm installs it.
        needs_agentrl: whether AgentRL is installed with it.
    """

    packages: tuple[str, ...]
    python: str = ""
    is_npm: bool = False
    needs_agentrl: bool = False


STABLE, NEWEST = "0.1.16", "0.2.0-alpha.12"
_SUITE = "@modelcontextprotocol/conformance"
EXTERNAL: Mapping[str, External] = {
    "openenv": External(("openenv==0.10.0",)),
    "harbor": External(("harbor==0.26.0",), python="3.12"),
    "atif": External(("atif==1.8.0",)),
    "inspect_ai": External(("inspect_ai==0.3.285",)),
    "verifiers": External(("verifiers==0.4.0",), needs_agentrl=True),
    "openai": External(("openai==3.57.0",)),
    "anthropic": External(("anthropic==2.14.0",)),
    f"mcp-conformance-{STABLE}": External((f"{_SUITE}@{STABLE}", _NODE), is_npm=True),
    f"mcp-conformance-{NEWEST}": External((f"{_SUITE}@{NEWEST}", _NODE), is_npm=True),
}
OWN: Mapping[str, str] = {
    "serve": "pip install 'agentrl[serve]'",
    "websockets": "pip install 'agentrl[openenv]'",
    "mcp": "pip install 'agentrl[mcp]'",
}
"""What AgentRL's own servers need, in the Python that runs this."""


def install_commands(name: str, folder: str, agentrl: str = "'agentrl[viewer]'") -> list[str]:
    """Shell commands that install an external package below a folder.

    Args:
        name: a key of `EXTERNAL`.
        folder: as `--tools` names it.
        agentrl: what pip is to install where AgentRL is needed too.
    """
    found, place = EXTERNAL[name], shlex.quote(os.path.join(folder, name))
    words = " ".join(shlex.quote(package) for package in found.packages)
    if found.is_npm:
        return [f"npm install --no-audit --no-fund --prefix {place} {words}"]
    python = f"python{found.python}" if found.python else shlex.quote(sys.executable)
    more = f" {agentrl}" if found.needs_agentrl else ""
    return [f"{python} -m venv {place}", f"{place}/bin/python -m pip install {words}{more}"]


def how_to_install(name: str, folder: str) -> str:
    """What to do about a package that is missing."""
    if name in OWN:
        return OWN[name]
    return f"{' && '.join(install_commands(name, folder))}, then --tools {folder}"


def python_in(folder: str, name: str) -> str | None:
    """The Python of a package below a folder."""
    path = Path(folder, name, "bin", "python")
    return str(path.absolute()) if folder and path.exists() else None


def suite_in(folder: str, version: str) -> tuple[str, str] | None:
    """A Node and the program of MCP's conformance suite below a folder, or None."""
    modules = Path(folder, f"mcp-conformance-{version}", "node_modules").absolute()
    program, node = modules / _SUITE / "dist" / "index.js", modules / ".bin" / "node"
    runs = str(node) if node.exists() else shutil.which("node")
    return (runs, str(program)) if runs and program.exists() else None
