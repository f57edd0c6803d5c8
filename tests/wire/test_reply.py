"""Bodies are read within a bound and decoded by the character sets of web pages alone."""

from __future__ import annotations

import gzip
import time
import tracemalloc
import zlib

import httpx
import pytest

from agentrl.wire.reply import decode, read_bounded

BOMB = gzip.compress(bytes(200_000_000), 9)


class Sent(httpx.AsyncByteStream):
    def __init__(self, content, size=65_536):
        self.parts = [content[i : i + size] for i in range(0, len(content), size)]

    async def __aiter__(self):
        for part in self.parts:
            yield part


def response(content, encoding="", size=65_536):
    return httpx.Response(200, headers={"content-encoding": encoding} if encoding else {}, stream=Sent(content, size))


@pytest.mark.parametrize("layers", [1, 2])
async def test_a_compression_bomb_is_not_unpacked(layers):
    content = BOMB if layers == 1 else gzip.compress(BOMB)
    tracemalloc.start()
    try:
        found = await read_bounded(response(content, "gzip"), 64_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found) == min(64_000, len(BOMB) if layers == 2 else 64_000)
    assert peak < 4_000_000


@pytest.mark.parametrize("size", [1, 7, 65_536])
@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("", bytes),
        ("identity", bytes),
        ("gzip", gzip.compress),
        ("X-GZIP", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda content: zlib.compressobj(wbits=-15).compress(content) or b""),
    ],
)
async def test_bodies_come_back_as_they_were(encoding, pack, size):
    content = b"The answer. " * 50
    packed = pack(content)
    if not packed:  # a raw stream has to be ended
        raw = zlib.compressobj(wbits=-15)
        packed = raw.compress(content) + raw.flush()
    assert await read_bounded(response(packed, encoding, size), 10_000) == content
    assert await read_bounded(response(packed, encoding, size), 20) == content[:20]


@pytest.mark.parametrize(("content", "encoding"), [(b"x", "br"), (b"x", "gzip, gzip"), (b"no gzip at all", "gzip")])
async def test_what_cannot_be_unpacked_is_an_error_of_the_server(content, encoding):
    with pytest.raises(httpx.DecodingError):
        await read_bounded(response(content, encoding), 100)


@pytest.mark.parametrize(
    ("charset", "content", "text"),
    [
        (None, "é".encode(), "é"),
        ("latin-1", b"\xe9", "é"),
        ("ISO-8859-15", b"\xa4", "€"),
        ("windows-1251", "да".encode("cp1251"), "да"),
        ("shift_jis", "日本".encode("shift_jis"), "日本"),
        ("utf-16", "é".encode("utf-16"), "é"),
        ("utf-7", b"+2AA-", "+2AA-"),
        ("unicode_escape", rb"\x41\ud800", r"\x41\ud800"),
        ("rot13", b"uryyb", "uryyb"),
        ("hex", b"41", "41"),
        ("zzz", b"x", "x"),
        ("utf-8\0", b"x", "x"),
        ("x" * 100_000, b"x", "x"),
        ("é", b"x", "x"),
    ],
)
def test_character_sets(charset, content, text):
    assert decode(content, "text/plain", charset) == text


@pytest.mark.parametrize("charset", ["punycode", "idna", "raw_unicode_escape", "uu", "bz2", "zip", "undefined", "mbcs"])
def test_codecs_that_are_no_character_sets_are_not_used(charset):
    content = b"a" * 64_000 + b"-" + b"9" * 64_000
    began = time.process_time()
    assert decode(content, "text/plain", charset) == content.decode()
    assert time.process_time() - began < 0.5
