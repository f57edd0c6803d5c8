"""The checker of environments: says whether one may be trained on, and what to fix if not. Owns no environment."""

from agentrl.env.check.check_env import check_env
from agentrl.env.check.report import CheckReport, Finding

__all__ = ["CheckReport", "Finding", "check_env"]
