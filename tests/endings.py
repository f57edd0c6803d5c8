"""One ending for each status of an episode, for tests that care about the status alone."""

from agentrl.trajectory import Ending

ENDINGS = {"terminated": Ending("answer"), "truncated": Ending("limit", "max_turns"), "fault": Ending("fault", "down")}
