"""The checker of environments: may this one be trained on, and what must change if not. Owns no environment."""

from agentrl.env.check.check_env import check_env
from agentrl.env.check.report import CheckReport, Finding

__all__ = ["CheckReport", "Finding", "check_env"]
