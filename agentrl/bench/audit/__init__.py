"""The audit of a benchmark: does a score mean something? It plays what does no work, and looks for what pays for it."""

from agentrl.bench.audit.audit import aaudit, audit
from agentrl.bench.audit.of_suite import SuiteAudit, audit_suite
from agentrl.bench.audit.report import AuditReport, Evidence, Flaw

__all__ = ["AuditReport", "Evidence", "Flaw", "SuiteAudit", "aaudit", "audit", "audit_suite"]
