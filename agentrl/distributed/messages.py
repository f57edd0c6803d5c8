"""What the trainer and a sampling process say to each other."""

from __future__ import annotations

from dataclasses import dataclass

from agentrl.rollout.requests import GroupRequest
from agentrl.sampling import SamplingParams
from agentrl.trajectory import EnvRef


@dataclass(frozen=True)
class Setup:
    """The first message to a sampling process; its model and tokenizer lie in shared memory.

    Attributes:
        env: of the requests that name none.
        modules: are imported first, because they register environments.
        sampling: of every turn.
        chat_format, max_context, exact: as of `LocalPolicy`.
        slots: most episodes whose keys and values are kept.
        max_concurrency: most episodes under way.
        version: of the model's weights.
        keep_cache: when new weights come, keep the keys and values that the old ones computed.
        threads: of torch.
        log_level: of messages that are passed on to the trainer's log.
        ends_when_hung: end the process when author code hangs.
        alive_s: seconds between two messages that say that the process is running; it begins with them.
        silent_s: a process that says so no longer is lost after so many seconds.
    """

    env: EnvRef
    modules: tuple[str, ...]
    sampling: SamplingParams
    chat_format: str
    slots: int
    max_context: int | None
    exact: bool
    max_concurrency: int
    version: int
    keep_cache: bool
    threads: int
    log_level: int
    ends_when_hung: bool
    alive_s: float
    silent_s: float


# To a sampling process.


@dataclass(frozen=True)
class Play:
    """Begin a group.

    Attributes:
        version: of the newest weights when it was sent.
        sampling: of every turn; None is that of the set-up.
    """

    ticket: int
    request: GroupRequest
    version: int
    sampling: SamplingParams | None


@dataclass(frozen=True)
class NewWeights:
    """A descriptor of the weights follows."""

    version: int


@dataclass(frozen=True)
class Cancel:
    """Stop a group."""

    ticket: int


@dataclass(frozen=True)
class Stop:
    """End."""


# To the trainer.


@dataclass(frozen=True)
class Ready:
    """The process can play."""


@dataclass(frozen=True)
class Alive:
    """The process is running, and has spent so many CPU seconds; sent again and again from its beginning on."""

    cpu_s: float


@dataclass(frozen=True)
class EpisodeEnded:
    """One more episode of a group has ended."""

    ticket: int


@dataclass(frozen=True)
class Played:
    """A whole group, as `pickle` writes it, and the CPU seconds of the process so far."""

    ticket: int
    group: bytes
    cpu_s: float


@dataclass(frozen=True)
class Failed:
    """A group ended with an error that retries do not fix."""

    ticket: int
    error: Exception


@dataclass(frozen=True)
class Broken:
    """The process ends with an error that retries do not fix."""

    error: Exception


@dataclass(frozen=True)
class Logged:
    """A message for the trainer's log: its logger, its level, and its text with the values to be filled in."""

    name: str
    level: int
    text: str
    values: tuple[str | float, ...]
