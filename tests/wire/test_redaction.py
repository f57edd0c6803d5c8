"""A secret is found however it is written, before and after what a text goes through."""

from __future__ import annotations

import base64
import html
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.wire.redaction import REDACTED, Redactor

SECRET = "ab/cd+ef==SE&C<R\"E'T\\9 é☕😀"
PLAIN = "sk-Ab12Cd34Ef56"


def lower_percent(text):
    return "".join(f"%{byte:02x}" for byte in text.encode())


FORMS = {
    "plain": str,
    "json": lambda s: json.dumps(s)[1:-1],
    "json ascii slash": lambda s: json.dumps(s)[1:-1].replace("/", "\\/"),
    "json utf8": lambda s: json.dumps(s, ensure_ascii=False)[1:-1],
    "json in json": lambda s: json.dumps(json.dumps(s))[3:-3],
    "all escapes": lambda s: "".join(f"\\u{ord(c):04X}" if ord(c) < 2**16 else json.dumps(c)[1:-1] for c in s),
    "percent": lambda s: quote(s, safe=""),
    "percent of a path": quote,
    "percent of a form": quote_plus,
    "percent twice": lambda s: quote(quote(s, safe=""), safe=""),
    "lower percent": lower_percent,
    "html": html.escape,
    "html named": lambda s: html.escape(s).replace("/", "&sol;").replace("+", "&plus;").replace("=", "&equals;"),
    "html decimal": lambda s: "".join(f"&#{ord(c)};" for c in s),
    "html hex": lambda s: "".join(f"&#x{ord(c):X};" for c in s),
    "base64": lambda s: base64.b64encode(s.encode()).decode(),
    "base64 bare": lambda s: base64.b64encode(s.encode()).decode().rstrip("="),
    "base64 url": lambda s: base64.urlsafe_b64encode(s.encode()).decode(),
    "base64 in json": lambda s: json.dumps(base64.b64encode(s.encode()).decode()).replace("/", "\\/")[1:-1],
    "hex": lambda s: s.encode().hex(),
    "HEX": lambda s: s.encode().hex().upper(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("secret", [SECRET, PLAIN])
def test_every_form_is_hidden_and_nothing_else(form, secret):
    written = FORMS[form](secret)
    text = f'{{"said": "{written}", "more": "text / + = & \\\\ %2F"}}'
    assert Redactor([secret]).text(text) == f'{{"said": "{REDACTED}", "more": "text / + = & \\\\ %2F"}}'
    assert Redactor([secret]).content(text.encode()) == Redactor([secret]).text(text).encode()


@pytest.mark.parametrize("user", ["a", "ab", "abc", "user@example.org"])
@pytest.mark.parametrize("after", ["", "x", "xy", "xyz"])
def test_a_secret_inside_other_base64(user, after):
    written = base64.b64encode(f"{user}:{PLAIN}{after}".encode()).decode()
    left = Redactor([PLAIN]).text(f"Basic {written}")
    assert REDACTED in left
    rest = left.removeprefix("Basic ").replace(REDACTED, "")
    assert len(rest) <= len(written) - len(PLAIN)


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=4, max_size=30).filter(lambda s: s.isprintable() and s.strip()), st.data())
def test_any_mixture_of_forms_of_any_secret(secret, data):
    ways = [FORMS[name] for name in ("plain", "json", "percent", "lower percent", "html", "html hex", "percent twice")]
    written = "".join(data.draw(st.sampled_from(ways))(character) for character in secret)
    assert Redactor([secret]).text(written) == REDACTED


@pytest.mark.parametrize("form", ["plain", "json ascii slash", "lower percent", "html hex", "all escapes"])
def test_a_secret_that_a_cut_runs_through(form):
    secret = "tok/en+SECRET-0123456789"
    written = FORMS[form](secret)
    redactor = Redactor([secret])
    for length in range(1, len(written)):
        left = redactor.text("a body, then " + written[:length], cut_off=True)
        seen = left.removeprefix("a body, then ")
        assert seen == REDACTED or len(seen) <= 5 * len(FORMS[form]("x")), (length, seen)
    assert redactor.text("tokyo is far", cut_off=True) == "tokyo is far"
    assert redactor.text("ends with tok/e") == "ends with tok/e"


@pytest.mark.parametrize("before", ["", "u:", "us:", "user:"])
def test_an_encoded_secret_that_a_cut_runs_through(before):
    secret = "tok/en+SECRET-0123456789"
    for written in (base64.b64encode((before + secret).encode()).decode(), (before + secret).encode().hex()):
        digits = len(written) - len(written) * len(before) // len(before + secret)
        for kept in range(1, digits):
            left = Redactor([secret]).text(f"Basic {written[: len(written) - digits + kept]}", cut_off=True)
            assert kept < 13 or len(left.partition(REDACTED)[2]) <= 1, (kept, left)
            assert kept < 13 or REDACTED in left


def test_bytes_that_are_no_utf8():
    redactor = Redactor([PLAIN])
    for encoding in ("utf-16-le", "utf-16-be", "latin-1"):
        assert PLAIN.encode(encoding) not in redactor.content(b"\xff\xfe" + f"x {PLAIN} y".encode(encoding))
    junk = bytes(range(256))
    assert redactor.content(junk) == junk


def test_several_secrets_and_none():
    assert Redactor(["key", "key-longer", ""]).text("key-longer key") == f"{REDACTED} {REDACTED}"
    assert Redactor([""]).text("as it is") == "as it is"
    assert Redactor([]).content(b"as it is") == b"as it is"


@pytest.mark.parametrize("unit", ["\\", "\\\\u", "%25", "&amp;", "&#0", "a" * 9 + "\\", "%", "ab/c"])
def test_no_text_makes_it_slow(unit):
    """Linear in the text: a quadratic search would take minutes here."""
    text = unit * (400_000 // len(unit))
    assert Redactor([SECRET, PLAIN]).text(text + PLAIN, cut_off=True) == text + REDACTED
