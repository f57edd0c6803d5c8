"""What `check_env` found: findings, each with a code, what is wrong and how to fix it. Checks nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Severity = Literal["error", "warning", "advice"]
_ORDER: tuple[Severity, ...] = ("error", "warning", "advice")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with an environment.

    Attributes:
        code: a stable name of the kind, for example `nondeterministic`.
        severity: an `error` must be fixed before training; a `warning` should be looked at; ignoring `advice`
            costs speed or certainty.
        problem: what was seen, and at which seed, step or tool.
        fix: what to change.
    """

    code: str
    severity: Severity
    problem: str
    fix: str


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The findings on one environment, worst first.

    Attributes:
        env_id: id or class that was checked.
        findings: what is wrong; empty if nothing is.
        checks: names of the checks that ran.
    """

    env_id: str
    findings: tuple[Finding, ...]
    checks: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing found is an error."""
        return not any(finding.severity == "error" for finding in self.findings)

    @property
    def codes(self) -> frozenset[str]:
        return frozenset(finding.code for finding in self.findings)

    def to_text(self) -> str:
        """The report for a person."""
        lines = [f"{self.env_id}: {self._verdict()}"]
        for finding in self.findings:
            lines += ["", f"{finding.severity} [{finding.code}] {finding.problem}", f"  fix: {finding.fix}"]
        return "\n".join(lines)

    def to_json(self) -> str:
        """The report as one JSON object: `env_id`, `ok`, `checks`, `findings`."""
        findings = [asdict(finding) for finding in self.findings]
        record = {"env_id": self.env_id, "ok": self.ok, "checks": list(self.checks), "findings": findings}
        return json.dumps(record, ensure_ascii=False, indent=2)

    def _verdict(self) -> str:
        counts = {s: sum(finding.severity == s for finding in self.findings) for s in _ORDER}
        said = [f"{n} {s}{'s' if n > 1 and s != 'advice' else ''}" for s, n in counts.items() if n]
        return ("ok" if self.ok else "not ok") + f" ({len(self.checks)} checks; {', '.join(said) or 'nothing found'})"


def worst_first(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Findings ordered by severity, each problem once."""
    return tuple(sorted(dict.fromkeys(findings), key=lambda finding: _ORDER.index(finding.severity)))
