"""What a backend's doctor reports: the checks of this machine, and the command that fixes what does not work.

Owns the form of the report. Which checks there are belongs to each backend.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One line of a backend's doctor. `repair` is the command that fixes it; empty if there is none."""

    name: str
    ok: bool
    detail: str
    repair: str = ""


@dataclass(frozen=True)
class Report:
    """What a backend's doctor found. The backend works if `usable`, even if a less important check failed."""

    backend: str
    usable: bool
    checks: tuple[Check, ...]

    @property
    def repair(self) -> str:
        """The first command that fixes something; empty if there is none."""
        return next((check.repair for check in self.checks if not check.ok and check.repair), "")
