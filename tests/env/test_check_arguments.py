"""Drawn arguments fit the schema they were drawn from, judged by the validation that a call goes through."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import pytest
from pydantic import BaseModel, Field

from agentrl.env.check_arguments import draw_arguments
from agentrl.tool_schema import Tool


class Node(BaseModel):
    name: str
    children: list[Node] = []


class Item(BaseModel):
    code: Annotated[str, Field(min_length=3, max_length=5)]
    count: Annotated[int, Field(gt=2, le=8)]


def awkward(
    flag: bool,
    colour: Literal["red", "blue", 3],
    share: Annotated[float, Field(ge=0.0, lt=1.0)],
    pair: tuple[int, str],
    items: Annotated[list[Item], Field(min_length=1, max_length=2)],
    tree: Node,
    prices: dict[str, float],
    even: Annotated[int, Field(multiple_of=4)],
    either: int | list[str] | None = None,
    note: str = "",
) -> None:
    """Everything at once."""


@pytest.mark.parametrize("seed", range(8))
def test_drawn_arguments_pass_validation(seed):
    tool = Tool.of(awkward)
    rng = np.random.default_rng(seed)
    for _ in range(60):
        tool.validate(draw_arguments(tool.schema["function"]["parameters"], rng))


def test_the_awkward_values_are_reached_and_optional_ones_left_out():
    def f(n: int, text: str, word: str = "a") -> None:
        """Anything."""

    parameters = Tool.of(f).schema["function"]["parameters"]
    rng = np.random.default_rng(0)
    drawn: list[dict[str, Any]] = [draw_arguments(parameters, rng) for _ in range(300)]
    assert {0, -1, 10**20} <= {arguments["n"] for arguments in drawn}
    assert {"", "O'Brien", "two\nlines"} <= {arguments["text"] for arguments in drawn}
    assert {True, False} == {"word" in arguments for arguments in drawn}


def test_the_same_generator_state_draws_the_same():
    parameters = Tool.of(awkward).schema["function"]["parameters"]
    one, other = (draw_arguments(parameters, np.random.default_rng(5)) for _ in range(2))
    assert one == other
