from __future__ import annotations

import copy
import math
import pickle
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.errors import ToolError
from agentrl.tools.search import Document, SearchIndex, search_tools

DOCUMENTS = [
    Document("a", "Red river", "The river is long and red. Salmon swim in it."),
    Document("b", "Blue hill", "A hill near the red river."),
    Document("c", "Salmon", "A fish. Salmon, salmon and more salmon."),
    Document("d", "Étude", "Ein Stück für Klavier."),
]


@pytest.fixture(scope="module")
def index():
    with SearchIndex(DOCUMENTS) as made:
        yield made


def test_the_best_document_comes_first(index):
    assert [hit.id for hit in index.search("salmon")] == ["c", "a"]
    assert [hit.id for hit in index.search("red river")][:2] == ["a", "b"]
    assert index.search("salmon", k=1)[0].title == "Salmon"


def test_scores_are_bm25():
    """Against the formula (k1=1.2, b=0.75) on one column, worked out by hand."""
    texts = ["x y", "x x x y", "y z", "y y", "y w"]
    documents = [Document(str(i), "", text) for i, text in enumerate(texts)]
    with SearchIndex(documents) as made:
        hits = {hit.id: hit.score for hit in made.search("x")}
    mean_length = sum(len(text.split()) for text in texts) / len(texts)
    idf = math.log((5 - 2 + 0.5) / (2 + 0.5))
    for doc_id, frequency, length in (("0", 1, 2), ("1", 3, 4)):
        expected = idf * frequency * 2.2 / (frequency + 1.2 * (0.25 + 0.75 * length / mean_length))
        assert hits[doc_id] == pytest.approx(expected, rel=1e-6)


def test_equal_scores_keep_the_order_of_the_documents():
    documents = [Document(str(i), "same", "words here") for i in (5, 3, 9, 1)]
    with SearchIndex(documents) as made:
        assert [hit.id for hit in made.search("words")] == ["5", "3", "9", "1"]


@pytest.mark.parametrize(
    "query", ['"salmon', "salmon*", "title:salmon", "NOT salmon", "salmon AND", "(salmon", "-salmon", "salmon'--"]
)
def test_query_syntax_has_no_effect(index, query):
    assert index.search(query)[0].id == "c"


@given(st.text(max_size=40))
def test_any_text_gives_hits_or_a_tool_error(index, query):
    try:
        hits = index.search(query)
    except ToolError:
        return
    assert {hit.id for hit in hits} <= {"a", "b", "c", "d"}


def test_words_beyond_ascii(index):
    assert index.search("ÉTUDE")[0].id == "d"
    assert index.search("klavier")[0].id == "d"


def test_a_query_without_words(index):
    with pytest.raises(ToolError, match="no word"):
        index.search(' "*" ')


def test_reading(index):
    assert index.read("b").text == "A hill near the red river."
    with pytest.raises(ToolError, match="no document 'z'"):
        index.read("z")


def test_ids_are_unique():
    with pytest.raises(ValueError, match="'a'"):
        SearchIndex([DOCUMENTS[0], DOCUMENTS[0]])


def test_it_survives_copying_pickling_and_threads(index):
    assert copy.deepcopy(index) is index
    twin = pickle.loads(pickle.dumps(index))
    assert twin.search("salmon") == index.search("salmon")
    results = []
    threads = [threading.Thread(target=lambda: results.append(index.search("salmon"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [index.search("salmon")] * 8


def test_as_tools(index):
    search, read = search_tools(index, k=1, max_chars=12)
    assert search.function(query="salmon") == "[c] Salmon: A fish. Salmon, salmon and more salmon."
    assert search.function(query="quark") == "nothing found"
    assert read.function(id="[c]") == "Salmon\nA fis [cut off]"


def test_an_index_that_is_dropped_is_closed(closings):
    made = SearchIndex(DOCUMENTS)
    assert made.search("salmon")
    assert closings == []
    del made
    assert closings == ["closed"]


def test_a_huge_query_or_id_costs_and_shows_little(index):
    assert index.search("salmon " + "x" * 10**6)
    with pytest.raises(ToolError) as caught:
        index.read("x" * 10**6)
    assert len(str(caught.value)) < 200
