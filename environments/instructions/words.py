"""The words of the texts, in three languages, and what counts as a word."""

from __future__ import annotations

import re
from collections.abc import Mapping

LEXICONS: Mapping[str, tuple[str, ...]] = {
    "English": ("tea", "milk", "cake", "rice", "soup", "bread", "fish", "salt", "egg", "plum"),
    "German": ("tee", "milch", "kuchen", "reis", "suppe", "brot", "fisch", "salz", "ei", "pflaume"),
    "French": ("thé", "lait", "gâteau", "riz", "soupe", "pain", "poisson", "sel", "oeuf", "prune"),
}
"""Language -> its words; no word is in two of them."""
_WORD = re.compile(r"[^\W\d_]+")


def words_of(text: str) -> list[str]:
    """The words of a text, in small letters: runs of letters, of any language."""
    return [word.casefold() for word in _WORD.findall(text)]
