"""Numbers as text of few tokens, and back. Owns no data set.

A notation writes any finite number as the nearest one that it has, and reads only texts that it writes:
`write(read(text)) == text` for each of them.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass

_MOST_EXPONENT = 9


class Notation(ABC):
    """A way to write numbers."""

    @abstractmethod
    def write(self, number: float) -> str:
        """The text of the nearest number that can be written."""

    @abstractmethod
    def read(self, text: str) -> float | None:
        """The number of a text; None if it is no number of this notation. White space around it does not matter."""

    @property
    @abstractmethod
    def hint(self) -> str:
        """What a model that has not seen examples must know."""


@dataclass(frozen=True)
class Normalised(Notation):
    """Digits of the number's place between two bounds: of `base ** digits` equal cells, the middle of one.

    Attributes:
        low, high: bounds; numbers beyond them are written as the nearest cell.
        base: 2 to 10.
        digits: of the text.
    Source: Song and Bahri 2025, arXiv:2501.19383, section 3.2 (normalised tokenisation).
    """

    low: float
    high: float
    base: int = 10
    digits: int = 2

    def __post_init__(self) -> None:
        if not 2 <= self.base <= 10:
            raise ValueError(f"base must be 2 to 10, so that each digit is one character, got {self.base}")
        if not (self.digits >= 1 and self.base**self.digits <= 2**40):
            raise ValueError(f"digits must be at least 1 and base ** digits at most 2 ** 40, got {self.digits}")
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")

    @property
    def cells(self) -> int:
        return int(self.base**self.digits)

    def write(self, number: float) -> str:
        place = (number - self.low) / (self.high - self.low)
        cell = min(max(math.floor(place * self.cells), 0), self.cells - 1)
        return "".join(str(cell // self.base**power % self.base) for power in reversed(range(self.digits)))

    def read(self, text: str) -> float | None:
        text = text.strip()
        if not re.fullmatch(f"[0-{self.base - 1}]{{{self.digits}}}", text):
            return None
        return self.low + (int(text, self.base) + 0.5) / self.cells * (self.high - self.low)

    @property
    def hint(self) -> str:
        numbers = f"in base {self.base}, " if self.base != 10 else ""
        return f"Answer with {self.digits} digits {numbers}from the lowest to the highest number."


@dataclass(frozen=True)
class Scientific(Notation):
    """Sign, digits of the mantissa and exponent: `+152e-1` is 15.2.

    Attributes:
        digits: of the mantissa. The exponent has one digit: what is too small is 0, what is too large the largest.
    Source: Charton 2022, arXiv:2112.01898, section 2.2 (P10); Song and Bahri 2025, arXiv:2501.19383, section 3.2
        (unnormalised tokenisation).
    """

    digits: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.digits <= 15:
            raise ValueError(f"digits must be 1 to 15, those that a float holds, got {self.digits}")

    def write(self, number: float) -> str:
        mantissa, exponent = f"{abs(number):.{self.digits - 1}e}".split("e")
        power = int(exponent) - (self.digits - 1)
        shown = mantissa.replace(".", "")
        if power > _MOST_EXPONENT:
            shown, power = "9" * self.digits, _MOST_EXPONENT
        if power < -_MOST_EXPONENT or not float(mantissa):
            return f"+{'0' * self.digits}e+0"
        return f"{'-' if number < 0 else '+'}{shown}e{power:+d}"

    def read(self, text: str) -> float | None:
        text = text.strip()
        if not re.fullmatch(rf"[+-][1-9][0-9]{{{self.digits - 1}}}e(?:[+][0-9]|-[1-9])", text):
            return 0.0 if text == f"+{'0' * self.digits}e+0" else None
        return float(text)

    @property
    def hint(self) -> str:
        return f"Answer with a sign, {self.digits} digits, e and an exponent, such as +{'152'[: self.digits]}e-1."


@dataclass(frozen=True)
class Plain(Notation):
    """Plain digits: `152`, `-3.5`.

    Attributes:
        decimals: digits behind the point; always written.
    """

    decimals: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.decimals <= 9:
            raise ValueError(f"decimals must be 0 to 9, got {self.decimals}")

    def write(self, number: float) -> str:
        text = f"{min(max(number, -999_999.0), 999_999.0):.{self.decimals}f}"
        return text if float(text) else text.lstrip("-")

    def read(self, text: str) -> float | None:
        text = text.strip()
        behind = rf"\.[0-9]{{{self.decimals}}}" if self.decimals else ""
        if not re.fullmatch(rf"-?(?:0|[1-9][0-9]{{0,5}}){behind}", text) or (text[0] == "-" and not float(text)):
            return None
        number = float(text)
        return number if abs(number) <= 999_999.0 else None

    @property
    def hint(self) -> str:
        return (
            f"Answer with a number with {self.decimals} decimals." if self.decimals else "Answer with a whole number."
        )
