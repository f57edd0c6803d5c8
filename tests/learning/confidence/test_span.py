"""Where an answer stands among tokens, and confidence by hand."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from agentrl.learning.confidence.span import (
    answer_of,
    answer_span,
    branch_scale,
    longest_common_run,
    mean_margin,
    sureness_of,
)
from agentrl.messages import Action, TokenSignals

CHAIN = ("5", " ", "1", ". ", "So", " the", " answer", " is", " ", "4", ".", "<|im_end|>")


@pytest.mark.parametrize(
    ("texts", "answer"),
    [
        (CHAIN, ["4"]),
        (("So the answer", " is", " 4.", "</s>"), [" 4."]),
        (("So the answer is", " ", "12", "3", "\n", "Next"), ["12", "3"]),
        (("So the answer is 1. ", "So the answer is", " two", " three"), [" two", " three"]),
        (("So the answer is", ": ", "3", ".", "5", "."), ["3", ".", "5"]),
    ],
)
def test_the_span_holds_the_words_after_the_last_marker(texts, answer):
    start, end = answer_span(texts)
    assert list(texts[start:end]) == answer


@pytest.mark.parametrize("texts", [(), ("4",), ("So the answer is",), ("So the answer is", " ", "<|im_end|>")])
def test_without_an_answer_there_is_no_span(texts):
    assert answer_span(texts) is None
    assert mean_margin([0.9] * len(texts), answer_span(texts)) == 0.0


def test_a_later_answer_is_found_by_its_longest_run():
    assert answer_span(["a", "1", "2", "b", "1", "2", "3"], ["x", "1", "2", "3"]) == (4, 7)
    assert answer_span(["a", "b"], ["c"]) is None
    assert longest_common_run("xabab", "ab") == (3, 2)  # of equal ones the last
    assert longest_common_run("", "a") == (0, 0)
    assert longest_common_run("a", "a") == (0, 1)


def test_confidence_is_the_mean_margin_and_a_token_that_was_not_the_likeliest_counts_as_nothing():
    assert mean_margin([0.1, 0.8, 0.6, 0.2], (1, 3)) == pytest.approx(0.7)
    assert mean_margin([0.1, -0.8, 0.6], (1, 3)) == pytest.approx(0.3)


def test_a_branch_is_weighed_by_the_root_of_its_share_of_the_likeliest():
    assert branch_scale(math.log(0.2), 0.2 - 0.5) == pytest.approx(math.sqrt(0.2 / 0.5))
    assert branch_scale(math.log(0.6), 0.4) == 1.0


def test_a_turn_tells_its_answer_and_how_sure_it_was():
    margins = tuple(0.1 * i for i in range(len(CHAIN)))
    logprobs = tuple(math.log(0.5) for _ in CHAIN)
    sure = sureness_of(Action("", logprobs=logprobs, signals=TokenSignals(CHAIN, margins)))
    assert sure.answer == "4"
    assert sure.disparity == pytest.approx(0.9)
    assert sure.probability == pytest.approx(0.5)
    assert sureness_of(Action("So the answer is 4.")) is None
    nothing = sureness_of(Action("", logprobs=(-0.1,), signals=TokenSignals(("hm",), (0.9,))))
    assert (nothing.answer, nothing.disparity, nothing.probability) == ("", 0.0, 0.0)


def test_the_answer_of_a_text():
    assert answer_of("5 1. So the answer is Ann.") == "Ann"
    assert answer_of("Ann") == ""


def test_it_is_usable_without_torch():
    code = "import sys, agentrl.learning.confidence.span, agentrl.learning.confidence.calibration as c; "
    code += "assert 'torch' not in sys.modules; print(c.brier([0.5], [1]))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "0.25\n"
