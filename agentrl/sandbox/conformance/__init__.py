"""The checks that every backend must pass. Owns what honest programs may expect and the attacks; makes no sandbox."""

from agentrl.sandbox.conformance.check_sandbox import check_sandbox

__all__ = ["check_sandbox"]
