"""Full-text search in a fixed set of documents, with SQLite FTS5 and BM25 ranking.

Owns the index and the safe form of a query. The documents never change after construction, so that any number
of environments can share one index.
"""

from __future__ import annotations

import re
import sqlite3
import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from agentrl.errors import ToolError
from agentrl.tool_schema import Tool, tool

_WORD = re.compile(r"\w+")
MAX_QUERY_WORDS = 32
MAX_QUERY_CHARS = 2_000
MAX_SHOWN_CHARS = 80


@dataclass(frozen=True, slots=True)
class Document:
    """A document. Its id has no spaces."""

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A search result; `score` is the negated BM25 value of SQLite, so that a higher score is better."""

    id: str
    title: str
    snippet: str
    score: float


class SearchIndex:
    """BM25 search over documents.

    Results are ordered by score, then by the order in which the documents were given, so that equal
    queries give equal results on every machine.

    Args:
        documents: what to search; their ids must be unique.
        title_weight: weight of a word in the title; a word in the text has weight 1.
    Raises: ValueError if two documents have the same id.
    """

    def __init__(self, documents: Iterable[Document], *, title_weight: float = 4.0) -> None:
        self._documents: dict[str, Document] = {}
        for document in documents:
            if document.id in self._documents:
                raise ValueError(f"two documents have the id {document.id!r}; ids must be unique")
            self._documents[document.id] = document
        self._title_weight = title_weight
        # One connection runs one query at a time, and environments in several threads may share it.
        self._lock = threading.Lock()
        self._db = sqlite3.connect(":memory:", check_same_thread=False)
        self._close = weakref.finalize(self, self._db.close)
        self._db.execute("CREATE VIRTUAL TABLE docs USING fts5(id UNINDEXED, title, text, tokenize='unicode61')")
        rows = [(d.id, d.title, d.text) for d in self._documents.values()]
        self._db.executemany("INSERT INTO docs VALUES (?, ?, ?)", rows)

    def __len__(self) -> int:
        return len(self._documents)

    def search(self, query: str, k: int = 5) -> list[Hit]:
        """The best documents for a query, at most `k`.

        A document matches if it has at least one word of the query. Query syntax of FTS5 (`"`, `*`, `OR`,
        `NEAR`, `:`) has no effect: letters are read as words, and signs are ignored. Only the first 32 words and 2,000
        characters count.

        Raises: ToolError if the query has no word.
        """
        expression = match_expression(query)
        statement = (
            "SELECT id, title, snippet(docs, 2, '', '', '...', 12), bm25(docs, 0, ?, 1.0) AS rank "
            "FROM docs WHERE docs MATCH ? ORDER BY rank, rowid LIMIT ?"
        )
        with self._lock:
            rows = self._db.execute(statement, (self._title_weight, expression, k)).fetchall()
        return [Hit(doc_id, title, snippet, -score) for doc_id, title, snippet, score in rows]

    def read(self, doc_id: str) -> Document:
        """The document with this id. Raises: ToolError if there is none."""
        if doc_id not in self._documents:
            raise ToolError(f"there is no document {doc_id[:MAX_SHOWN_CHARS]!r}; use an id that search gave")
        return self._documents[doc_id]

    def close(self) -> None:
        """Close the index; safe to call twice. An index that is dropped is closed too."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # an index never changes, so that a forked episode can share it

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (list(self._documents.values()), self._title_weight)


def _rebuild(documents: list[Document], title_weight: float) -> SearchIndex:
    return SearchIndex(documents, title_weight=title_weight)


def match_expression(query: str) -> str:
    """The FTS5 expression for a plain query: each word quoted, joined by OR."""
    words = list(dict.fromkeys(_WORD.findall(query[:MAX_QUERY_CHARS].lower())))[:MAX_QUERY_WORDS]
    if not words:
        raise ToolError("the query has no word to search for")
    return " OR ".join(f'"{word}"' for word in words)


def search_tools(index: SearchIndex, *, k: int = 5, max_chars: int = 4000) -> list[Tool]:
    """`search` and `read` over an index, for `ToolEnv.extra_tools`.

    Args:
        index: the documents to search.
        k: most results of one search.
        max_chars: most characters that `read` shows of a document.
    """

    @tool
    def search(query: str) -> str:
        """Search the documents; gives ids, titles and excerpts.

        Args:
            query: a few words.
        """
        hits = index.search(query, k)
        return "\n".join(f"[{hit.id}] {hit.title}: {hit.snippet}" for hit in hits) or "nothing found"

    @tool
    def read(id: str) -> str:
        """Read a document.

        Args:
            id: as search gives it.
        """
        document = index.read(id.strip().strip("[]"))
        text = f"{document.title}\n{document.text}"
        return text if len(text) <= max_chars else text[:max_chars] + " [cut off]"

    return [Tool.of(search), Tool.of(read)]
