"""What every sandbox backend must pass: promises kept, and probes that attack it. No backend here."""

from agentrl.sandbox.conformance.check_sandbox import check_sandbox

__all__ = ["check_sandbox"]
