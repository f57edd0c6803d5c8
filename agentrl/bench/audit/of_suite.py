"""The audit of a suite: every environment of its file, one after another. Owns no check."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from agentrl.bench.audit.audit import audit
from agentrl.bench.audit.report import AuditReport
from agentrl.bench.suites.suite import Suite
from agentrl.errors import AgentRLError


@dataclass(frozen=True)
class SuiteAudit:
    """What is wrong with the environments of a suite.

    Attributes:
        reports: by the environment's name.
        errors: why an environment could not be audited.
    """

    reports: Mapping[str, AuditReport]
    errors: Mapping[str, str]

    @property
    def ok(self) -> bool:
        """Whether every environment was audited and none has an error."""
        return not self.errors and all(report.ok for report in self.reports.values())

    def to_json(self) -> dict[str, Any]:
        """A dictionary that JSON can hold; each environment's part is what its own audit gives."""
        envs = {name: report.to_json() for name, report in self.reports.items()}
        return {"ok": self.ok, "errors": dict(self.errors), "envs": envs}

    def to_text(self) -> str:
        """The reports for a person."""
        parts = [f"[{name}] {report.to_text()}" for name, report in self.reports.items()]
        return "\n\n".join([*parts, *(f"[{name}] could not be audited: {why}" for name, why in self.errors.items())])


def audit_suite(
    suite: Suite,
    *,
    num_tasks: int | None = 30,
    seed: int | None = None,
    max_concurrency: int = 16,
    checks: Sequence[str] | None = None,
    on_progress: Callable[[str, int], None] | None = None,
) -> SuiteAudit:
    """Audit each environment of a suite. One that cannot be played stops none of the others.

    Args:
        suite: names environments with their arguments, limits and splits.
        num_tasks: most tasks of each; an environment's own `num_tasks` counts where it is smaller. None takes as many
            as the suite plays.
        seed: of the episodes; None is the suite's.
        max_concurrency, checks: as in `audit`.
        on_progress: called with the environment's name and the number of its episodes so far.
    Raises: ValueError for an unknown check.
    """
    reports: dict[str, AuditReport] = {}
    errors: dict[str, str] = {}
    for name, env in suite.envs.items():
        counts = [count for count in (num_tasks, env.num_tasks) if count is not None]
        try:
            reports[name] = audit(
                env.ref,
                split=env.split,
                num_tasks=min(counts, default=None),
                seed=suite.seed if seed is None else seed,
                max_concurrency=max_concurrency,
                checks=checks,
                on_progress=None if on_progress is None else partial(_named, on_progress, name),
            )
        except AgentRLError as error:
            errors[name] = f"{type(error).__name__}: {error}"
    return SuiteAudit(reports, errors)


def _named(on_progress: Callable[[str, int], None], name: str, _check: str, count: int) -> None:
    on_progress(name, count)
