"""Reads a TOML file. Owns the words for what cannot be read in it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from agentrl.errors import ConfigError

NONE = "none"
"""The word that stands for None, which TOML does not have."""


def read_table(path: str | Path) -> dict[str, Any]:
    """The table of a TOML file. Raises: ConfigError if it cannot be read."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors write a byte order mark
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give the path of a TOML file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text: {error}; save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}{_shown_line(text, str(error))}") from None


def _shown_line(text: str, error: str) -> str:
    """The line that TOML could not read, and how Python's words are written in it."""
    found = re.search(r"at line (\d+)", error)
    line = text.split("\n")[int(found[1]) - 1].strip()[:80] if found else ""
    words = re.findall(r"=\s*(True|False|None)\b", line)
    hint = {"True": "; TOML writes true", "False": "; TOML writes false", "None": f'; write "{NONE}"'}
    return f": {line}{hint[words[0]] if words else ''}" if line else ""
