"""The session of an episode: which value it is, and where it goes in a request. Sends nothing.

The value is part of the environment's episode (`agentrl.env.author_code.episode_state`). A server holds the rest, so
an episode with a session cannot be forked.
"""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import quote

import httpx

from agentrl.env.author_code import acting_env, episode_state, hold_elsewhere
from agentrl.errors import EnvFault
from agentrl.tools.http_settings import Session
from agentrl.wire.request_text import is_header_text

# A shorter value, such as the number of a tenant, would be hidden wherever it occurs in an answer.
SHORTEST_HIDDEN = 8
# Values that no other episode has, of this process or another.
_HERE, _COUNTER = uuid.uuid4().hex, itertools.count(1)
_COOKIE_SAFE = "!#$&'()*+-./:<=>?@[]^_`{|}~"


def session_of(given: Session | str | None) -> Session | None:
    """A session as `session=` takes it: a text names a header."""
    return Session(given) if isinstance(given, str) else given


def session_value(session: Session | None, *, offline: bool = False) -> str | None:
    """The value for the environment whose code is running; None outside environments, or while it has none.

    Args: offline: a cassette answers, so that no server holds a session, and a fork is possible.
    Raises: EnvFault if it is no text.
    """
    env = acting_env()
    if session is None or env is None:
        return None
    value = _drawn(session, env) if session.value is None else _given(session, env)
    if value is None:
        return None
    if not isinstance(value, str | int) or not str(value):
        raise EnvFault(f"the session {session.name!r} must be a text, got {type(value).__name__}", who="author")
    if not offline:
        hold_elsewhere(env, f"a server holds its session {session.name!r}")
    return str(value)


def hidden_forms(value: str | None) -> tuple[str, ...]:
    """The value as a secret: a server that echoes it would make equal episodes differ."""
    return (value,) if value is not None and len(value) >= SHORTEST_HIDDEN else ()


def _drawn(session: Session, env: Any) -> str:
    state = episode_state(env)
    key = f"session {session.where} {session.name}"
    if key not in state:
        # Not from `np_random`: episodes of one seed run side by side, each in a session of its own.
        state[key] = f"{_HERE}-{os.getpid()}-{next(_COUNTER)}"
    value: str = state[key]
    return value


def _given(session: Session, env: Any) -> Any:
    return getattr(env, session.value, None) if isinstance(session.value, str) else session.value(env)


def in_path(session: Session | None, path: str, value: str | None) -> str:
    """A path or base URL with its part `{name}` filled in. Raises: EnvFault if there is no value for it."""
    place = "{" + session.name + "}" if session is not None and session.where == "path" else ""
    if not place or place not in path:
        return path
    if value is None:
        raise EnvFault(f"the path needs the session {place}, and no environment gives it a value here", who="author")
    if value in (".", ".."):
        raise EnvFault(f"the session {place} cannot be {value!r}", who="author")
    return path.replace(place, quote(value, safe=""))


def attach(session: Session | None, value: str | None, url: httpx.URL, headers: MutableMapping[str, str]) -> httpx.URL:
    """Put the value into the header, query or cookies of a request; returns its address."""
    if session is None or value is None or session.where == "path":
        return url
    if session.where == "query":
        return url.copy_set_param(session.name, value)
    if session.where == "cookie":
        add_cookie(headers, session.name, value)
        return url
    if not is_header_text(value):
        raise EnvFault(
            f"the session {session.name!r} cannot be sent as a header: it must be printable ASCII", who="author"
        )
    headers[session.name] = value
    return url


def add_cookie(headers: MutableMapping[str, str], name: str, value: str) -> None:
    """Add to the Cookie header; what a cookie cannot hold is percent-encoded. Source: RFC 6265, section 4.1.1."""
    pair = f"{quote(name, safe=_COOKIE_SAFE.replace('=', ''))}={quote(value, safe=_COOKIE_SAFE)}"
    headers["Cookie"] = f"{headers['Cookie']}; {pair}" if headers.get("Cookie") else pair
