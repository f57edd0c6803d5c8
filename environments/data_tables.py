"""Tables of sales and questions about them: the question's text, its answer, and code that finds the answer.

Owns the problems. The answer is computed here from whole numbers; the code computes it from the CSV file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

FILE = "sales.csv"
_REGIONS = ("north", "south", "east", "west", "coast")
_PRODUCTS = ("lamp", "desk", "chair", "shelf", "stool", "frame", "clock")
_BUYERS = ("ada", "bea", "cleo", "dora", "emma", "finn", "gus", "hugo", "ivo", "june", "kim", "leo", "mia", "noa")
_HEADER = "date,buyer,region,product,units,price"
_ROWS = f"rows = [r for r in csv.DictReader(open('{FILE}')) if r['units']]"
_READ = (
    f"import csv, collections\n{_ROWS}\n"
    "for r in rows:\n    r['n'] = int(r['units'])\n    r['cents'] = round(float(r['price']) * 100) * r['n']\n"
)


@dataclass(frozen=True)
class Sale:
    """One row; `units` is None if the cell is empty."""

    date: str
    buyer: str
    region: str
    product: str
    units: int | None
    cents: int

    @property
    def number(self) -> int:
        return self.units or 0

    @property
    def revenue(self) -> int:
        """In cents."""
        return self.number * self.cents

    def line(self) -> str:
        """The row as CSV."""
        units = "" if self.units is None else str(self.units)
        return f"{self.date},{self.buyer},{self.region},{self.product},{units},{self.cents / 100:.2f}"


@dataclass(frozen=True)
class Question:
    """The question's text, the answer as a number or a name, and code for the sandbox that prints it."""

    text: str
    answer: Fraction | str
    code: str


def table(rng: np.random.Generator) -> list[Sale]:
    """Draw 40 to 120 sales; about one in twelve has no units."""
    sales = []
    for _ in range(int(rng.integers(40, 121))):
        month, day = int(rng.integers(1, 13)), int(rng.integers(1, 29))
        units = None if rng.random() < 1 / 12 else int(rng.integers(1, 40))
        sales.append(
            Sale(
                date=f"2024-{month:02}-{day:02}",
                buyer=_one(rng, _BUYERS),
                region=_one(rng, _REGIONS),
                product=_one(rng, _PRODUCTS),
                units=units,
                cents=int(rng.integers(150, 30_000)),
            )
        )
    return sales


def as_csv(sales: list[Sale]) -> str:
    """The table as a file."""
    return "\n".join([_HEADER, *(sale.line() for sale in sales)]) + "\n"


def _one(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]


def _money(cents: int) -> Fraction:
    return Fraction(cents, 100)


def _leader(totals: Mapping[str, int]) -> str:
    """The name with the largest total. Raises: LookupError if two names share it."""
    (first, most), *rest = sorted(totals.items(), key=lambda item: -item[1])
    if rest and rest[0][1] == most:
        raise LookupError("two names lead")
    return first


def units_of(sales: list[Sale], rng: np.random.Generator) -> Question:
    """Ask for the units of a product in a region."""
    product, region = _one(rng, _PRODUCTS), _one(rng, _REGIONS)
    total = sum(s.number for s in sales if (s.product, s.region) == (product, region))
    test = f"r['product'] == '{product}' and r['region'] == '{region}'"
    return Question(
        f"How many units of {product} were sold in the region {region}?",
        Fraction(total),
        f"{_READ}print(sum(r['n'] for r in rows if {test}))",
    )


def revenue_of(sales: list[Sale], rng: np.random.Generator) -> Question:
    """Ask for the revenue of a buyer."""
    buyer = _one(rng, _BUYERS)
    cents = sum(s.revenue for s in sales if s.buyer == buyer)
    code = f"{_READ}print('%.2f' % (sum(r['cents'] for r in rows if r['buyer'] == '{buyer}') / 100))"
    return Question(f"For how much did {buyer} buy in all (units times price)?", _money(cents), code)


def mean_units(sales: list[Sale], rng: np.random.Generator) -> Question:
    """Ask for the mean units of a product's rows."""
    product = _one(rng, _PRODUCTS)
    numbers = [s.units for s in sales if s.product == product and s.units is not None]
    if not numbers:
        raise LookupError("no rows")
    code = f"{_READ}n = [r['n'] for r in rows if r['product'] == '{product}']\nprint('%.2f' % (sum(n) / len(n)))"
    return Question(
        f"What is the mean number of units per sale of {product}?", Fraction(sum(numbers), len(numbers)), code
    )


def best_month(sales: list[Sale], rng: np.random.Generator) -> Question:
    """Ask for the month with the largest revenue in a region."""
    region = _one(rng, _REGIONS)
    totals: Counter[str] = Counter()
    for sale in sales:
        if sale.region == region:
            totals[sale.date[:7]] += sale.revenue
    code = (
        f"{_READ}c = collections.Counter()\nfor r in rows:\n    if r['region'] == '{region}':\n"
        "        c[r['date'][:7]] += r['cents']\nprint(c.most_common(1)[0][0])"
    )
    return Question(f"Which month (as YYYY-MM) had the largest revenue in the region {region}?", _leader(totals), code)


def best_buyer(sales: list[Sale], rng: np.random.Generator) -> Question:
    """Ask for the buyer with the most units of a product."""
    product = _one(rng, _PRODUCTS)
    totals: Counter[str] = Counter()
    for sale in sales:
        if sale.product == product:
            totals[sale.buyer] += sale.number
    code = (
        f"{_READ}c = collections.Counter()\nfor r in rows:\n    if r['product'] == '{product}':\n"
        "        c[r['buyer']] += r['n']\nprint(c.most_common(1)[0][0])"
    )
    return Question(f"Who bought the most units of {product}?", _leader(totals), code)


def share(sales: list[Sale], rng: np.random.Generator) -> Question:
    """Ask for a region's share of revenue, in percent."""
    region = _one(rng, _REGIONS)
    part, whole = sum(s.revenue for s in sales if s.region == region), sum(s.revenue for s in sales)
    code = (
        f"{_READ}part = sum(r['cents'] for r in rows if r['region'] == '{region}')\n"
        "print('%.2f' % (100 * part / sum(r['cents'] for r in rows)))"
    )
    return Question(
        f"What percentage of all revenue comes from the region {region}?", Fraction(100 * part, whole), code
    )


def largest_sale(sales: list[Sale], rng: np.random.Generator) -> Question:
    """Ask for the largest revenue of one sale in a quarter."""
    quarter = int(rng.integers(1, 5))
    months = [f"2024-{3 * quarter - 2 + i:02}" for i in range(3)]
    cents = max(s.revenue for s in sales if s.date[:7] in months)
    code = f"{_READ}print('%.2f' % (max(r['cents'] for r in rows if r['date'][:7] in {months}) / 100))"
    return Question(
        f"How much was the largest single sale of quarter {quarter} (units times price)?", _money(cents), code
    )


FAMILIES: dict[str, Callable[[list[Sale], np.random.Generator], Question]] = {
    ask.__name__: ask for ask in (units_of, revenue_of, mean_units, best_month, best_buyer, share, largest_sale)
}


def of_first_rows(code: str, count: int) -> str:
    """The code of a question, changed to read only the first `count` rows with units."""
    return code.replace(_ROWS, f"{_ROWS}[:{count}]")


def problem(family: str, seed: int) -> tuple[list[Sale], Question]:
    """The table and question of a family and a seed; drawn again until there is exactly one answer, and not 0."""
    rng = np.random.default_rng(seed)
    while True:
        sales = table(rng)
        try:
            question = FAMILIES[family](sales, rng)
        except (LookupError, ValueError):
            continue
        if question.answer:
            return sales, question
