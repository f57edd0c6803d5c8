"""Forms with files, bytes and texts, as an independent reader finds them in the request."""

from __future__ import annotations

import base64
import json
from email import message_from_bytes
from email.policy import HTTP
from typing import Any

import pytest

from agentrl.errors import ToolError
from agentrl.tools.cassette import Cassette
from agentrl.tools.openapi import api_tools
from tests.tools.one_operation import sent, with_body

TEXT, FILE = {"type": "string"}, {"type": "string", "format": "binary"}
PNG = b"\x89PNG\r\n--agentrl-\x00\xff"


def form(properties, encoding=None, version="3.0.3", **more):
    schema = {"type": "object", "properties": properties, **more}
    return with_body(schema, "multipart/form-data", version=version, encoding=encoding)


def parts_of(request) -> list[tuple[str, str | None, str | None, bytes]]:
    """Name, filename, content type and content of each part."""
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    message = message_from_bytes(head + request.content, policy=HTTP)
    found: list[Any] = []
    for part in message.iter_parts():
        name = part["content-disposition"].params["name"]
        kind = part["content-type"] and str(part["content-type"])
        found.append((name, part.get_filename(), kind, part.get_payload(decode=True)))
    return found


async def test_fields_objects_lists_and_files():
    made = form(
        {
            "title": TEXT,
            "count": {"type": "integer"},
            "about": {"type": "object", "properties": {"x": {"type": "integer"}}},
            "tags": {"type": "array", "items": TEXT},
            "image": {**FILE, "description": "A picture."},
            "more": {"type": "array", "items": FILE},
        },
        {"image": {"contentType": "image/png, image/jpeg"}},
    )
    request = await sent(
        made,
        title='a "b" é',
        count=3,
        about={"x": 1},
        tags=["a", "b"],
        image={"base64": base64.b64encode(PNG).decode(), "filename": "dot.png"},
        more=["one", {"text": "two", "filename": "2.txt"}],
    )
    assert request.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert parts_of(request) == [
        ("title", None, None, 'a "b" é'.encode()),
        ("count", None, None, b"3"),
        ("about", None, "application/json", b'{"x":1}'),
        ("tags", None, None, b"a"),
        ("tags", None, None, b"b"),
        ("image", "dot.png", "image/png", PNG),
        ("more", "more", "application/octet-stream", b"one"),
        ("more", "2.txt", "application/octet-stream", b"two"),
    ]


def test_the_model_sees_how_a_file_is_given():
    (tool,) = api_tools(form({"image": {**FILE, "description": "A picture."}, "name": TEXT}, required=["image"]))
    shown = tool.parameters["properties"]["image"]
    assert shown["description"].startswith("A picture. (the content as a text, or an object with `text` or `base64`")
    assert list(shown["anyOf"][1]["properties"]) == ["text", "base64", "filename"]
    assert tool.parameters["required"] == ["image"]
    assert "binary" not in json.dumps(tool.schema)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"base64": "***"}, r"^image\.base64 is no base64"),
        ({}, "^image: give either text or base64, got neither"),
        ({"text": "a", "base64": "YQ=="}, "^image: give either text or base64, got text and base64"),
        ({"text": "a", "filename": "a\nb"}, r"^image\.filename must have no control characters"),
        (5, "wrong arguments for op: image"),
        ({"path": "/etc/passwd"}, "wrong arguments for op: image"),
    ],
)
async def test_a_file_that_is_none_is_told_to_the_model(value, message):
    with pytest.raises(ToolError, match=message):
        await sent(form({"image": FILE}), image=value)


async def test_names_cannot_add_headers_or_parts():
    made = form({'a"\r\nX-Evil: 1': TEXT, "f": FILE})
    request = await sent(
        made,
        **{
            "a_X-Evil_1": "--x\r\nContent-Disposition: form-data; name=z\r\n\r\n",
            "f": {"text": "t", "filename": 'q".txt'},
        },
    )
    assert [(name, filename) for name, filename, *_ in parts_of(request)] == [
        ("a%22%0D%0AX-Evil: 1", None),
        ("f", "q%22.txt"),
    ]


@pytest.mark.parametrize(
    ("schema", "encoding", "media"),
    [
        ({"contentMediaType": "image/png"}, None, "image/png"),
        ({"type": "string", "contentMediaType": "application/octet-stream"}, None, "application/octet-stream"),
        ({"type": "string"}, {"contentType": "application/pdf"}, "application/pdf"),
        (FILE, {"contentType": "image/*"}, "application/octet-stream"),
    ],
)
async def test_files_in_the_words_of_both_versions(schema, encoding, media):
    made = form({"f": schema}, {"f": encoding} if encoding else None, "3.1.0")
    assert parts_of(await sent(made, f="x")) == [("f", "f", media, b"x")]


@pytest.mark.parametrize(
    ("schema", "encoding", "value", "parts"),
    [
        ({"type": "string", "format": "byte"}, None, "YQ==", [("f", None, None, b"YQ==")]),
        ({"type": "string", "contentEncoding": "base64"}, None, "YQ==", [("f", None, None, b"YQ==")]),
        (TEXT, {"contentType": "text/csv"}, "a,b", [("f", None, "text/csv", b"a,b")]),
        (
            {"type": "array", "items": TEXT},
            {"contentType": "application/json"},
            ["a"],
            [("f", None, "application/json", b'"a"')],
        ),
        ({"type": "array", "items": TEXT}, {"style": "deepObject"}, ["a"], [("f[0]", None, None, b"a")]),
        (
            {"type": "array", "items": {"type": "object"}},
            None,
            [{"a": 1}],
            [("f", None, "application/json", b'{"a":1}')],
        ),
    ],
)
async def test_other_fields_of_such_a_form(schema, encoding, value, parts):
    made = form({"f": schema}, {"f": encoding} if encoding else None)
    assert parts_of(await sent(made, f=value)) == parts


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        ("application/octet-stream", FILE),
        ("application/octet-stream", {}),
        ("image/png", {}),
        ("image/png", FILE),
        ("application/pdf", {"contentMediaType": "application/pdf"}),
    ],
)
async def test_a_body_of_bytes(kind, schema):
    request = await sent(with_body(schema, kind), body={"base64": base64.b64encode(PNG).decode()})
    assert (request.content, request.headers["content-type"]) == (PNG, kind)
    assert (await sent(with_body(schema, kind), body="text")).content == b"text"


@pytest.mark.parametrize(
    ("kind", "schema", "sent_as"),
    [
        ("text/csv", TEXT, "text/csv; charset=utf-8"),
        ("text/markdown", {}, "text/markdown; charset=utf-8"),
        ("text/plain; charset=utf-8", TEXT, "text/plain; charset=utf-8"),
        ("application/xml", TEXT, "application/xml"),
        ("application/x-yaml", TEXT, "application/x-yaml"),
        ("text/*", TEXT, "text/plain; charset=utf-8"),
    ],
)
async def test_a_body_of_text(kind, schema, sent_as):
    request = await sent(with_body(schema, kind), body="é,1")
    assert (request.content, request.headers["content-type"]) == ("é,1".encode(), sent_as)


async def test_json_is_taken_before_a_form_with_files():
    made = with_body({"type": "object", "properties": {"a": TEXT}}, "multipart/form-data")
    content = made["paths"]["/x"]["post"]["requestBody"]["content"]
    content["application/json"] = {"schema": {"type": "object", "properties": {"a": TEXT}}}
    assert (await sent(made, a="x")).content == b'{"a":"x"}'


async def test_a_form_with_files_is_found_on_a_tape(server, tmp_path):
    made, tape = form({"f": FILE}), tmp_path / "tape.jsonl"
    texts = []
    for mode in ("record", "replay"):
        (tool,) = api_tools(made, base_url=server.url, transport=Cassette(tape, mode))
        texts.append(await tool.function(**tool.validate({"f": {"text": "x"}})))
        await tool.aclose()
    assert texts[0] == texts[1]
    assert len(server.seen) == 1
