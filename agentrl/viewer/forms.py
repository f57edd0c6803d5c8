"""What a request may say: each form with its bounds. Owns no answer."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request

from agentrl.viewer.query import MOST_LINE, MOST_ROWS


class TaskQuery(BaseModel):
    """One task in every run."""

    model_config = ConfigDict(extra="forbid")
    env: str = Field(max_length=300)
    task: str = Field(max_length=300)
    limit: int = Field(50, ge=1, le=MOST_ROWS)


class TokenQuery(BaseModel):
    """A piece of a row of tokens."""

    model_config = ConfigDict(extra="forbid")
    row: int = Field(0, ge=0, le=MOST_LINE)
    start: int = Field(0, ge=0, le=MOST_LINE)


class ForkForm(BaseModel):
    """Where a fork begins."""

    model_config = ConfigDict(extra="forbid")
    run: str = Field(max_length=40)
    line: int = Field(ge=1, le=MOST_LINE)
    turn: int = Field(ge=0)


class CallForm(BaseModel):
    """A call of a tool."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=300)
    arguments: dict[str, Any] = {}


class ActForm(BaseModel):
    """What a person does: a text, calls, or both; or the policy that plays on."""

    model_config = ConfigDict(extra="forbid")
    text: str = Field("", max_length=100_000)
    calls: list[CallForm] = Field([], max_length=16)
    policy: str = Field("", max_length=300)


async def form_of(request: Request) -> dict[str, Any]:
    """The JSON object of a request. Raises: HTTPException."""
    try:
        found = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise HTTPException(400, "the body must be a JSON object")
    return found


def line_of(request: Request) -> int:
    """The line that a path names. Raises: KeyError for a number that no store reaches."""
    line: int = request.path_params["line"]
    if line > MOST_LINE:
        raise KeyError(line)
    return line
