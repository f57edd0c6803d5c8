"""The definitions of tools, which a store holds once; later lines name them. Owns the names and how they are found."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentrl.byte_cache import ByteCache
from agentrl.rollout.json_lines import canonical, decode_line
from agentrl.rollout.records import Tools, TrajectoryRecord

_FEW_BYTES = 100  # a name takes about as many
_KEPT_BYTES = 1 << 26


class WrittenTools:
    """The definitions that stand in a store already, as far as this process wrote them."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._last, self._name_of_last = b"", ""  # most lines have the definitions of the line before

    def name_in(self, record: TrajectoryRecord) -> None:
        """Put the name of the record's definitions in their place if they were written before, else beside them."""
        text = canonical(record.tools)
        if len(text) <= _FEW_BYTES:
            return
        if text != self._last:
            self._last, self._name_of_last = text, hashlib.blake2b(text, digest_size=8).hexdigest()
        name = self._name_of_last
        if name in self._names:
            record.tools = name
        else:
            record.tools_name = name

    def written(self, record: TrajectoryRecord) -> None:
        """The record's line is in the store."""
        if record.tools_name:
            self._names.add(record.tools_name)

    def forget(self) -> None:
        """The store may have been cut."""
        self._names.clear()


class KnownTools:
    """The definitions that the lines of a store hold, by name; a line that was not read yet is looked for.

    Args: path: of the store.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = ByteCache[str, Tools](_KEPT_BYTES)

    def note(self, record: Mapping[str, Any]) -> None:
        """Learn from a line."""
        name = record.get("tools_name")
        if isinstance(name, str) and name not in self._known:
            self._known.put(name, record["tools"], 4 * len(canonical(record["tools"])))

    def of(self, name: str) -> Tools:
        """The definitions of a name. Raises: ValueError if no line of the store holds them."""
        found = self._known.get(name) or self._looked_for(name)
        if found is None:
            raise ValueError(f"it names the tools {name}, and the line that defines them is gone")
        return found

    def _looked_for(self, name: str) -> Tools | None:
        mark = f'"tools_name":"{name}"'.encode()
        with self._path.open("rb") as file:
            for line in file:
                if mark not in line:
                    continue
                record = decode_line(line)
                if record.get("tools_name") == name:
                    self.note(record)
                    tools: Tools = record["tools"]
                    return tools
        return None
