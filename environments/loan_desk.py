"""A library's loan desk: dependent calls whose answers are JSON. Owns the desk, one a task, kept in memory.

One of a book's three copies can be lent. The demonstrator `hasty` takes the first copy without looking, and gives up
when it is refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np

from agentrl.env.registry import register
from agentrl.env.rubric import Rubric
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.errors import ToolError
from agentrl.messages import Action, Message
from agentrl.tool_schema import tool
from agentrl.trajectory import Task

TITLES = ("Emma", "Kim", "Ivanhoe", "Dracula", "Ulysses", "Hamlet")
LEVELS = (1, 2, 3)
FIRST_ISBN, COPIES, MEMBERS, PER_PAGE = 100, 3, 9, 2
Period = Literal["week", "month"]


def make_task(rng: np.random.Generator, level: int) -> dict[str, Any]:
    """Draw a desk and a request: `free` is the number of the free copy of each book, `base` that of the first loan."""
    return {
        "titles": [str(title) for title in rng.permutation(TITLES)],
        "free": [int(n) for n in rng.integers(COPIES, size=len(TITLES))],
        "periods": ["week" if long else "month" for long in rng.integers(2, size=MEMBERS)],
        "base": int(rng.integers(500, 900)),
        "book": int(rng.integers(len(TITLES))),
        "member": int(rng.integers(1, MEMBERS + 1)),
        "level": level,
    }


@lru_cache(maxsize=3)
def _tasks(level: int) -> Tasks:
    return Tasks.generate(partial(make_task, level=level), seed=81_000 + level, train=8000, eval=200)


@register("agentrl/LoanDesk-v0", max_turns=12)
class LoanDesk(ToolEnv):
    """Lend a member a free copy of a book for the period that the member may have, and report the loan's number.

    Reward: 1 if exactly one loan was made, of the right book to the right member for the right period, and its number
    is the answer; otherwise 0.

    Args:
        level: 1 (the request has the book's number), 2 (it has the title, and one page lists all books) or 3 (two
            books a page, as the API of a real desk has them).
    """

    tasks = _tasks(1)
    rubric = Rubric({"correct": 1.0})
    demonstrators = ("oracle", "hasty")
    not_state = ("tasks",)

    def __init__(self, *, level: int = 1, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        if level not in LEVELS:
            raise ValueError(f"level must be 1, 2 or 3, got {level!r}")
        self.tasks = _tasks(level)
        self.page_size = PER_PAGE if level == 3 else len(TITLES)
        self.by_number = level == 1

    async def start(self, task: Task) -> str:
        self.lent: list[int] = []
        self.loans: dict[int, list[Any]] = {}
        return f"Lend {self._isbn if self.by_number else self._title} to member {task.data['member']}. Loan id?"

    @tool
    def member(self, member: int) -> dict[str, Any]:
        """A member and the loan period they may have.

        Args:
            member: number of the member.
        """
        if not 1 <= member <= MEMBERS:
            raise ToolError("no such member")
        number = sum(loan[0] == member for loan in self.loans.values())
        return {"id": member, "period": self.task.data["periods"][member - 1], "loans": number}

    @tool
    def books(self, page: int = 1) -> dict[str, Any]:
        """Books, some on a page.

        Args:
            page: from 1.
        """
        titles = self.task.data["titles"]
        first, end = (page - 1) * self.page_size, page * self.page_size
        if not 0 <= first < len(titles):
            raise ToolError("no such page")
        items = [{"isbn": FIRST_ISBN + i, "title": titles[i]} for i in range(first, end)]
        return {"items": items, "next": page + 1 if end < len(titles) else None}

    @tool
    def copies(self, isbn: int) -> list[dict[str, Any]]:
        """Copies of a book.

        Args:
            isbn: number of the book.
        """
        book = isbn - FIRST_ISBN
        if not 0 <= book < len(TITLES):
            raise ToolError("no such book")
        return [{"id": copy, "free": self._is_free(copy)} for copy in range(COPIES * book, COPIES * (book + 1))]

    @tool
    def lend(self, member: int, copy_id: int, period: Period) -> dict[str, Any]:
        """Lend a copy to a member; it cannot be undone.

        Args:
            member: number of the member.
            copy_id: of a free copy.
            period: week or month.
        """
        if not 0 <= copy_id < COPIES * len(TITLES):
            raise ToolError("no such copy")
        if not 1 <= member <= MEMBERS:
            raise ToolError("no such member")
        if not self._is_free(copy_id):
            raise ToolError("not free")
        number = self.task.data["base"] + 7 * copy_id + member
        self.lent.append(copy_id)
        self.loans[number] = [member, copy_id, period]
        return {"id": number, "member": member, "copy_id": copy_id, "period": period}

    async def score(self, answer: str | None) -> dict[str, float]:
        if len(self.lent) != 1 or answer is None:
            return {"correct": 0.0}
        (number, loan), data = next(iter(self.loans.items())), self.task.data
        right = loan == [data["member"], self._free_copy, data["periods"][data["member"] - 1]]
        return {"correct": float(right and answer.strip() == str(number))}

    def oracle(self, messages: Sequence[Message]) -> Action:
        """Look up the member, the book and its copies, and lend the free copy."""
        return self._demonstrate(messages, self._free_copy)

    def hasty(self, messages: Sequence[Message]) -> Action:
        """A wrong habit: lend the first copy, free or not, and give up if it is refused."""
        return self._demonstrate(messages, COPIES * self.task.data["book"])

    def _demonstrate(self, messages: Sequence[Message], copy: int) -> Action:
        last, data = messages[-1], self.task.data
        if last.role == "user":
            return call("member", member=data["member"])
        if last.content.startswith("Error"):
            return Action(text="sorry")
        told = json.loads(last.content)
        if last.name == "member" and not self.by_number:
            return call("books")
        if last.name == "books" and all(book["isbn"] != self._isbn for book in told["items"]):
            return call("books", page=told["next"])
        if last.name == "copies":
            return call("lend", member=data["member"], copy_id=copy, period=data["periods"][data["member"] - 1])
        return Action(text=str(told["id"])) if last.name == "lend" else call("copies", isbn=self._isbn)

    def state_key(self) -> str:
        seen = ",".join(f"{name}:{stats['calls']}" for name, stats in sorted(self.tool_stats.items()))
        return f"{self.task.id}|{seen}|{self.loans}"

    @property
    def _isbn(self) -> int:
        return FIRST_ISBN + int(self.task.data["book"])

    @property
    def _title(self) -> str:
        return str(self.task.data["titles"][self.task.data["book"]])

    @property
    def _free_copy(self) -> int:
        return COPIES * int(self.task.data["book"]) + int(self.task.data["free"][self.task.data["book"]])

    def _is_free(self, copy: int) -> bool:
        return bool(self.task.data["free"][copy // COPIES] == copy % COPIES and copy not in self.lent)
