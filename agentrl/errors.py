"""The errors of AgentRL: one class per boundary. Owns their names, not how they are shown.

Bad input raises a `ValueError`, a `TypeError` or a subclass of `AgentRLError` that says what to do.
`EnvFault` and `PolicyFault` are recorded on the episode that they end. An error in AgentRL itself is not caught.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar, Literal

Who = Literal["author", "server", "network", "sandbox", "host"]
"""What failed, where it was not the model."""


class AgentRLError(Exception):
    """Base of every error that AgentRL raises on purpose."""


class EnvNotFound(AgentRLError, LookupError):
    """No environment is registered under the given id."""


class ToolSchemaError(AgentRLError, TypeError):
    """A function cannot become a tool: a hint is missing or has no JSON schema."""


class ToolError(AgentRLError):
    """A tool raises it to tell the model what it did wrong; its text becomes the tool message."""


class _Fault(AgentRLError):
    who: ClassVar[Who]

    def __init__(self, message: str = "", *, who: Who | None = None, answers: bool | None = None) -> None:
        super().__init__(message)
        self.at = who or self.who
        self.answers = answers
        # Set on the way out: which tool was called, and whether it happened after the model had acted.
        self.tool = ""
        self.after_action = False
        # Set where it is made: code was interrupted after all the seconds that it may take.
        self.is_late = False


class EnvFault(_Fault):
    """The environment's infrastructure failed. The episode is discarded and tried again, not scored.

    A fault that the model's actions bring about again, while the same infrastructure serves others, counts as the
    model's doing: see `agentrl.rollout.verdict`.

    Args:
        message: what failed, and what to do.
        who: what failed: a server that the environment needs (the default), the network, a sandbox, this machine, or
            the code of the environment's author.
        answers: whether a control request to the same server succeeded after the failure; None if none was sent.
    """

    who: ClassVar[Who] = "server"


class PolicyFault(_Fault):
    """The policy's infrastructure failed (server gone, rate limit used up). The episode is discarded, never scored.

    Args: as `EnvFault`; `who` is the server by default.
    """

    who: ClassVar[Who] = "server"


class JudgeFault(EnvFault):
    """A judge gave no verdict: its server failed, or its answers cannot be read. The episode is discarded.

    A server that fails is never ruled to be the model's doing, since a score of 0 would then be what a judge's failure
    is worth. A text is, on which a judge that grades others says what is no verdict.

    Args:
        message, who: as `EnvFault`.
        answers: whether the judge gave a verdict on another text.
        cause: for counts: `unreadable`, or what failed.
    """

    UNREADABLE: ClassVar[str] = "unreadable"

    def __init__(self, message: str = "", *, who: Who | None = None, answers: bool | None = None, cause: str = ""):
        super().__init__(message, who=who, answers=answers)
        self.cause = cause or self.at

    @property
    def is_of_the_text(self) -> bool:
        """Whether the judge gives verdicts, and none on this text."""
        return self.cause == self.UNREADABLE and bool(self.answers)


class TaskError(AgentRLError, ValueError):
    """A task or split does not exist, or the splits are not disjoint."""


class ForkRefused(AgentRLError, RuntimeError):
    """An environment cannot be forked, because a part of its episode is kept elsewhere."""


class ConfigError(AgentRLError, ValueError):
    """A configuration key or value is not accepted."""


class PackageMissing(AgentRLError, ImportError):
    """A part needs a package that is not installed; the message says how to install it."""


class ModelError(AgentRLError):
    """A model folder cannot be used: files or the chat template are missing."""


class CheckpointError(AgentRLError):
    """A checkpoint is corrupt, incomplete, or from another configuration."""


class StoreError(AgentRLError):
    """The trajectory store cannot be read or written (full disk, broken line in the middle)."""


class PolicyError(AgentRLError, TypeError):
    """The code of a policy's author is wrong: what it returned is no turn. The run ends."""


class RolloutError(AgentRLError):
    """Too many episodes were discarded: something is broken that retries do not fix."""


class ThreadsLeft(RolloutError):
    """Too many threads of an environment's code do not return and cannot be ended."""


class LearnerLost(AgentRLError):
    """One of the processes that learn together has ended, and with it the exchange between them."""


class TrainingRefused(AgentRLError):
    """A stage would train a model on feedback that is shown to be wrong."""


class ReplayError(AgentRLError):
    """Recorded actions cannot be executed again."""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """A sentence that names the nearest known word, or lists the known ones.

    Args:
        given: the word that was not found.
        known: the words that exist.
    Returns: ` Did you mean 'x'?`, or ` Known: a, b.`, or an empty string if nothing is known.
    """
    names = sorted(known)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    longer = [name for name in names if name.startswith(given) and len(given) > 1]
    if longer and close != [given]:
        return f" Did you mean {longer[0]!r}?" if len(longer) == 1 else f" Did you mean one of {', '.join(longer)}?"
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Known: {', '.join(names)}." if names else ""
