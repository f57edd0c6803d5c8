"""A shop whose API needs several dependent calls; each episode has its own store in SQLite.

The cheapest offer often has too little stock, and an order cannot be undone, so an agent that buys without checking
the stock fails on most tasks. The demonstrator `hasty` does exactly that.
"""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from agentrl.env.registry import register
from agentrl.env.rubric import Rubric
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.errors import ToolError
from agentrl.messages import Action, Message
from agentrl.tool_schema import tool
from agentrl.trajectory import Task

KINDS = ("tea", "mug", "pen", "bag", "cap", "jar")
SELLERS = ("ada", "bea", "cleo", "dora", "emma", "finn", "gus", "hugo", "ivo", "june", "kim", "leo")
OFFERS_PER_KIND = 3
KINDS_IN_STORE = 2
_SHOWN_CHARS = 80
# Probability that an offer has too little stock, cheapest offer first; the last offer always has enough.
_SHORT = (0.85, 0.3, 0.0)


def make_task(rng: np.random.Generator) -> dict[str, Any]:
    """Draw a store and an order: offers are `[seller, kind, price, stock]`."""
    kinds = [KINDS[number] for number in rng.choice(len(KINDS), KINDS_IN_STORE, replace=False)]
    chosen = rng.choice(len(SELLERS), KINDS_IN_STORE * OFFERS_PER_KIND, replace=False)
    sellers = iter([SELLERS[number] for number in chosen])
    quantity = int(rng.integers(2, 6))
    offers = [offer for kind in kinds for offer in _offers(rng, kind, quantity, sellers)]
    return {"want": kinds[0], "quantity": quantity, "offers": offers}


def _offers(rng: np.random.Generator, kind: str, quantity: int, sellers: Iterator[str]) -> list[list[Any]]:
    prices = sorted(1 + number for number in rng.choice(9, OFFERS_PER_KIND, replace=False).tolist())
    offers = []
    for price, short in zip(prices, _SHORT, strict=True):
        stock = rng.integers(0, quantity) if rng.random() < short else rng.integers(quantity, 10)
        offers.append([next(sellers), kind, price, int(stock)])
    return [offers[index] for index in rng.permutation(OFFERS_PER_KIND)]


@register("agentrl/Shop-v0", max_turns=8)
class Shop(ToolEnv):
    """Buy the cheapest offer that has enough stock, and report the order number.

    With `cheapest_first=False` the offers are listed unsorted, so that prices must be compared too.
    Reward: 1 if exactly one order was placed, for the right offer and quantity, and its number is the
    answer; otherwise 0.
    """

    tasks = Tasks.generate(make_task, seed=20_251, train=8000, eval=400)
    rubric = Rubric({"correct": 1.0})
    demonstrators = ("oracle", "hasty")
    not_state = ("_db", "_close_db")
    _db: sqlite3.Connection | None = None
    _close_db: weakref.finalize[..., Shop] | None = None

    def __init__(self, *, cheapest_first: bool = True, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self.cheapest_first = cheapest_first

    async def start(self, task: Task) -> str:
        self._open_store()
        self.db.executemany("INSERT INTO offers VALUES (?, ?, ?, ?)", task.data["offers"])
        return f"Buy {task.data['quantity']} {task.data['want']}."

    @tool
    def search(self, kind: str) -> str:
        """Offers of a kind of product, seller and price in euros, cheapest first.

        Args:
            kind: what to look for, for example tea.
        """
        order = "price" if self.cheapest_first else "rowid"
        rows = self._rows(f"SELECT seller, price FROM offers WHERE kind = ? ORDER BY {order}", kind)
        if not rows:
            raise ToolError(f"no offers of {_shown(kind)}")
        return "\n".join(f"{seller} {price}" for seller, price in rows)

    @tool
    def stock(self, seller: str) -> str:
        """How many pieces a seller has left.

        Args:
            seller: who sells.
        """
        return f"{self._stock_of(seller)} left"

    @tool
    def buy(self, seller: str, quantity: int) -> str:
        """Place an order; it cannot be undone.

        Args:
            seller: who sells.
            quantity: pieces, at least 1.
        """
        if quantity < 1:
            raise ToolError("quantity must be at least 1")
        sent = min(quantity, self._stock_of(seller))
        number = int(self.np_random.integers(100, 1000))
        self.db.execute("UPDATE offers SET stock = stock - ? WHERE seller = ?", (sent, seller))
        self.db.execute("INSERT INTO orders VALUES (?, ?, ?)", (number, seller, sent))
        return f"order {number}"

    async def score(self, answer: str | None) -> dict[str, float]:
        orders = self.db.execute("SELECT number, seller, quantity FROM orders").fetchall()
        if len(orders) != 1 or answer is None:
            return {"correct": 0.0}
        number, seller, sent = orders[0]
        right = seller == self._best() and sent == self.task.data["quantity"]
        return {"correct": float(right and answer.strip() == f"order {number}")}

    def oracle(self, messages: Sequence[Message]) -> Action:
        """Check the stock of the offers, cheapest first, and buy from the first that has enough."""
        return self._demonstrate(messages, check=True)

    def hasty(self, messages: Sequence[Message]) -> Action:
        """A wrong habit: buy the cheapest offer without checking its stock."""
        return self._demonstrate(messages, check=False)

    def _demonstrate(self, messages: Sequence[Message], *, check: bool) -> Action:
        want, quantity = self.task.data["want"], self.task.data["quantity"]
        last = messages[-1]
        if last.role == "user":
            return call("search", kind=want)
        if last.name == "buy":
            return Action(text=last.content)
        cheapest = sorted((price, seller) for seller, kind, price, _ in self.task.data["offers"] if kind == want)
        checked = sum(message.name == "stock" for message in messages)
        if not check:
            return call("buy", seller=cheapest[0][1], quantity=quantity)
        if last.name == "stock" and int(last.content.split()[0]) >= quantity:
            return call("buy", seller=cheapest[checked - 1][1], quantity=quantity)
        return call("stock", seller=cheapest[checked][1])

    def state_key(self) -> str:
        seen = ",".join(f"{name}:{stats['calls']}" for name, stats in sorted(self.tool_stats.items()))
        return f"{self.task.id}|{seen}|{self.db.execute('SELECT seller, quantity FROM orders').fetchall()}"

    def save_extra(self) -> bytes | None:
        return None if self._db is None else self._db.serialize()

    def load_extra(self, extra: bytes | None) -> None:
        self._close_store()
        if extra is not None:
            self._open_empty().deserialize(extra)

    async def aclose(self) -> None:
        self._close_store()

    @property
    def db(self) -> sqlite3.Connection:
        if self._db is None:
            raise RuntimeError("the store is not open: call reset first")
        return self._db

    def _open_store(self) -> None:
        self._close_store()
        db = self._open_empty()
        db.execute("CREATE TABLE offers (seller TEXT PRIMARY KEY, kind TEXT, price INTEGER, stock INTEGER)")
        db.execute("CREATE TABLE orders (number INTEGER, seller TEXT, quantity INTEGER)")

    def _open_empty(self) -> sqlite3.Connection:
        # An environment that is dropped without `close` closes its store too, in whatever thread drops it.
        self._db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._close_db = weakref.finalize(self, self._db.close)
        return self._db

    def _close_store(self) -> None:
        if self._close_db is not None:
            self._close_db()
        self._db = self._close_db = None

    def _stock_of(self, seller: str) -> int:
        rows = self._rows("SELECT stock FROM offers WHERE seller = ?", seller)
        if not rows:
            raise ToolError(f"no seller {_shown(seller)}")
        return int(rows[0][0])

    def _rows(self, query: str, name: str) -> list[Any]:
        try:
            return self.db.execute(query, (name,)).fetchall()
        except UnicodeEncodeError:  # a lone surrogate: no name in the store has one
            return []

    def _best(self) -> str:
        """The cheapest offer of the wanted kind that had enough stock when the episode began."""
        enough = [
            (price, seller)
            for seller, kind, price, stock in self.task.data["offers"]
            if kind == self.task.data["want"] and stock >= self.task.data["quantity"]
        ]
        return str(min(enough)[1])


def _shown(name: str) -> str:
    """A name as an error shows it: not longer than any in the store by much, and without lone surrogates."""
    return name[:_SHOWN_CHARS].encode(errors="replace").decode()
