"""The outcome of each door, and the report of all. Owns no check."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Outcome = Literal["green", "failed", "not run", "does not apply"]


@dataclass(frozen=True)
class Door:
    """What one door showed.

    Attributes:
        name: of the door.
        outcome: whether the environment is the same through it.
        detail: what was compared, what differs, or how to install what is missing.
        hashes: of the episodes as this door carries them, where it carries episodes.
    """

    name: str
    outcome: Outcome
    detail: str
    hashes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ConformReport:
    """The doors of one environment.

    Attributes:
        env: its id.
        episodes: that were played through each door.
        doors: in order.
    """

    env: str
    episodes: int
    doors: tuple[Door, ...]

    @property
    def ok(self) -> bool:
        """Whether no door failed; one whose package is not installed did not run."""
        return all(door.outcome != "failed" for door in self.doors)

    def to_json(self) -> dict[str, Any]:
        return {"env": self.env, "ok": self.ok, "episodes": self.episodes, "doors": [asdict(d) for d in self.doors]}

    def to_text(self) -> str:
        """A table, one door a line."""
        wide = max(len(door.name) for door in self.doors)
        lines = [f"{door.name:{wide}}  {door.outcome:14}  {door.detail}" for door in self.doors]
        return "\n".join([f"{self.env}: {'ok' if self.ok else 'not ok'} ({self.episodes} episodes a door)", *lines])
