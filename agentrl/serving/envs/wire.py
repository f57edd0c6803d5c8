"""The protocol between a served environment and its client: frames, requests and answers. Owns their forms and bounds.

A session is a connection that was upgraded from HTTP (`Upgrade: agentrl-env`). Each side then sends frames: a length of
four bytes and as many bytes of JSON. The client numbers its requests from 1. The server keeps its last answer, so a
request that is sent again after the connection was lost is answered from what was kept, and not executed twice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from agentrl.messages import Action, Message
from agentrl.rollout.json_lines import encode_exact_line, encode_line
from agentrl.rollout.plain_json import as_json, is_finite
from agentrl.trajectory import Ending

PROTOCOL = 1
UPGRADE = "agentrl-env"
ROOT = "/agentrl/v1"
DESCRIPTION, SESSION, TASKS = ROOT, f"{ROOT}/session", f"{ROOT}/tasks"
SESSION_HEADER = "agentrl-session"
MOST_BYTES = 8 << 20
"""Bytes of one frame, and of one body."""
LENGTH_BYTES = 4
PAGE = 2000
"""Tasks of one answer."""

Op = Literal["reset", "step", "demonstrate", "fork", "save", "load", "close"]
T = TypeVar("T")


class TaskForm(Struct, frozen=True):
    """A task; `data` is left out where the server knows the task by its id and fingerprint."""

    id: str
    split: str = "train"
    fingerprint: str = ""
    data: Mapping[str, Any] | None = None


class Request(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a client asks.

    Attributes:
        n: number of the request in its session, from 1.
        seed, task, split: of a reset.
        limits: those of the client's instance, for a reset.
        readable: tools whose faults the model reads as errors, for a reset.
        recall: the record of an earlier episode, for a reset: what its simulated users said.
        action: of a step.
        name, messages: of a demonstrator, and the conversation it is asked with.
        saved, session: number of a saved state, and the session that saved it.
    """

    n: int
    op: Op
    seed: int | None = None
    task: TaskForm | None = None
    split: str | None = None
    limits: Mapping[str, Any] = {}
    readable: tuple[str, ...] = ()
    recall: Mapping[str, Any] | None = None
    action: Action | None = None
    name: str = ""
    messages: tuple[Message, ...] = ()
    saved: int = 0
    session: str = ""


class Raised(Struct, frozen=True, omit_defaults=True):
    """What the environment raised.

    Attributes:
        kind: name of the exception's class.
        text: its message.
        who: what failed, as `EnvFault.at`.
        answers, tool, cause: as of a fault.
    """

    kind: str
    text: str
    who: str = ""
    answers: bool | None = None
    tool: str = ""
    cause: str = ""


class Reply(Struct, frozen=True, omit_defaults=True):
    """What the server answers.

    Attributes:
        n: number of the request.
        raised: what the environment raised, in place of everything else.
        observation, reward, terminated, truncated, info: of a reset or a step. A reward that is not finite is a text.
        tools: definitions after a reset.
        state_key: name of the state that was reached.
        ending: why the episode ended, after its last step.
        action: of a demonstrator.
        session: of a fork: that of the twin.
        saved: number of a saved state.
    """

    n: int
    raised: Raised | None = None
    observation: tuple[Message, ...] = ()
    reward: float | str = 0.0
    terminated: bool = False
    truncated: bool = False
    info: Mapping[str, Any] = {}
    tools: tuple[Mapping[str, Any], ...] | None = None
    state_key: str | None = None
    ending: Ending | None = None
    action: Action | None = None
    session: str = ""
    saved: int = 0


class Welcome(Struct, frozen=True):
    """The first frame of a connection: the session, the number of its last request, and what is served."""

    session: str
    last: int
    version: str


class Description(Struct, frozen=True):
    """What is served.

    Attributes:
        protocol: number of this protocol.
        id, kwargs, limits, version: the environment's reference.
        name, summary: of its class.
        splits: tasks of each split, in order.
        fingerprint: of all tasks.
        own_limits: the environment's, those of the reference included.
        demonstrators: methods that know the right action.
        can_fork, has_state_key, recalls: whether it can, whether it names its states, whether it has simulated users.
        third_party, known_flaws: as of the environment.
        longest_s: seconds that an answer may take.
        tools: definitions before a reset.
    """

    protocol: int
    id: str
    kwargs: Mapping[str, Any]
    limits: Mapping[str, Any]
    version: str
    name: str
    summary: str
    splits: Mapping[str, int]
    fingerprint: str
    own_limits: Mapping[str, Any]
    demonstrators: tuple[str, ...]
    can_fork: bool
    has_state_key: bool
    recalls: bool
    third_party: tuple[str, ...]
    known_flaws: tuple[str, ...]
    longest_s: float
    tools: tuple[Mapping[str, Any], ...]


class TaskPage(Struct, frozen=True):
    """Some tasks of a split, from an index on."""

    tasks: tuple[TaskForm, ...]


def sent_number(value: float) -> float | str:
    """A reward as it is sent: JSON has no number that is not finite."""
    return float(value) if math.isfinite(value) else repr(float(value))


def encoded(form: Struct) -> bytes:
    """A form as JSON, exact also for what strict JSON cannot hold."""
    if isinstance(form, Reply) and form.info and not is_finite((form.info,)):
        return encode_exact_line(form)
    return encode_line(form)


def decoded(data: bytes | memoryview, kind: type[T]) -> T:
    """A form read. Raises: ValueError that says what is wrong with it."""
    try:
        if data[:1] == b" ":
            return msgspec.convert(json.loads(bytes(data)), kind)
        found: T = _decoders[kind].decode(data)
        return found
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None


_decoders: Mapping[Any, Any] = {
    kind: msgspec.json.Decoder(kind) for kind in (Request, Reply, Welcome, Description, TaskPage)
}


def frame(body: bytes) -> bytes:
    """A frame. Raises: ValueError if it is too large."""
    if len(body) > MOST_BYTES:
        raise ValueError(f"a message of {len(body)} bytes is larger than {MOST_BYTES >> 20} MiB")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def plain_info(info: Mapping[str, Any]) -> dict[str, Any]:
    """The info of a step as plain JSON, which is what a record would hold."""
    found: dict[str, Any] = as_json(dict(info))
    return found
