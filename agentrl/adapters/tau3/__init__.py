"""tau3: customers and their requests (a checkout of tau2-bench)."""

from agentrl.adapters.tau3.solo import Tau3Solo as Tau3Solo
