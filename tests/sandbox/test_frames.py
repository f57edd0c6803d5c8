"""Frames and the count of memory kills: what arrives in pieces, what lies about its size, what changes under way."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.sandbox.host.cgroups import MemoryKills
from agentrl.sandbox.worker.frames import (
    MAX_HEADER_BYTES,
    MAX_PARTS,
    PREFIX,
    FrameError,
    Headers,
    left,
    lengths,
    pack,
    split,
)


@given(st.lists(st.binary(max_size=20), max_size=MAX_PARTS), st.booleans())
def test_a_frame_says_where_its_parts_end(parts, packed):
    header = {"op": "ping", "ü": [1]}
    content = b"".join(pack(json.dumps(header).encode() if packed else header, parts))
    head, sizes = lengths(content[: PREFIX.size])
    assert Headers().parse(content[PREFIX.size : PREFIX.size + head]) == header
    assert split(content[PREFIX.size + head :], sizes) == parts + [b""] * (MAX_PARTS - len(parts))


@given(st.lists(st.binary(max_size=9), max_size=5), st.data())
def test_what_is_left_of_buffers_is_what_was_not_sent(parts, drawn):
    whole = b"".join(parts)
    sent = drawn.draw(st.integers(0, len(whole)))
    rest = left([memoryview(part) for part in parts], sent)
    assert b"".join(rest) == whole[sent:]
    assert bool(whole[sent:]) or not any(rest)


@pytest.mark.parametrize("sizes", [(MAX_HEADER_BYTES + 1, 0, 0, 0, 0), (9, 60, 0, 41, 0)])
def test_a_frame_beyond_its_caps_is_refused_before_it_is_read(sizes):
    with pytest.raises(FrameError, match="announces"):
        lengths(PREFIX.pack(*sizes), 100)
    assert lengths(PREFIX.pack(9, 60, 0, 40, 0), 100) == (9, (60, 0, 40, 0))


def test_a_header_that_is_changed_is_as_new_the_next_time():
    headers = Headers()
    headers.parse(b'{"status": "nonzero"}')["status"] = "oom"
    assert headers.parse(b'{"status": "nonzero"}') == {"status": "nonzero"}
    for wrong in (b"[1]", b"7", b"\xff", b"{"):
        with pytest.raises(ValueError, match=r".+"):
            headers.parse(wrong)
    assert headers.parse(b'{"status": "ok"}') == {"status": "ok"}


@pytest.mark.parametrize(
    "form",
    ["oom_kill_disable 9\nunder_oom 9\noom_kill {}\n", "low 9\noom 9\noom_kill {}\noom_group_kill 9\n"],
    ids=["version 1", "version 2"],
)
def test_memory_kills_are_reported_once(tmp_path, form):
    events = tmp_path / "events"
    events.write_text(form.format(3))
    kills = MemoryKills(events)
    assert not kills.any_more()
    events.write_text(form.format(5))
    assert kills.any_more()
    assert not kills.any_more()
    kills.close()
    events.write_text(form.format(7))
    assert not kills.any_more()
    kills.close()


def test_without_the_file_there_are_no_memory_kills(tmp_path):
    assert not MemoryKills(tmp_path / "none").any_more()
