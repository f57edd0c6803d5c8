"""Each construct of OpenAPI 3.0 and 3.1 as it arrives at a server, or refused by name."""

from __future__ import annotations

import json
from http.cookies import SimpleCookie

import httpx
import pytest

from agentrl.errors import ToolError, ToolSchemaError
from agentrl.tools.openapi import api_tools
from agentrl.tools.openapi.document import operations
from tests.tools.one_operation import Echo, document, parameter, sent, with_body

TEXTS = {"type": "array", "items": {"type": "string"}}
COLOURS = {"type": "object", "properties": {"R": {"type": "integer"}, "G": {"type": "integer"}}}
RG = {"R": 100, "G": 200}


@pytest.mark.parametrize(
    ("schema", "more", "value", "query"),
    [
        ({"type": "string"}, {}, "blue", "p=blue"),
        (TEXTS, {}, ["a", "b"], "p=a&p=b"),
        (TEXTS, {"explode": False}, ["a,b", "c"], "p=a%2Cb,c"),
        (TEXTS, {"style": "spaceDelimited"}, ["a", "b"], "p=a%20b"),
        (TEXTS, {"style": "spaceDelimited", "explode": True}, ["a", "b"], "p=a&p=b"),
        (TEXTS, {"style": "pipeDelimited"}, ["a", "b"], "p=a%7Cb"),
        (TEXTS, {"style": "pipeDelimited", "explode": True}, ["a", "b"], "p=a&p=b"),
        (COLOURS, {}, RG, "R=100&G=200"),
        (COLOURS, {"explode": False}, RG, "p=R,100,G,200"),
        (COLOURS, {"style": "spaceDelimited"}, RG, "p=R%20100%20G%20200"),
        (COLOURS, {"style": "pipeDelimited"}, RG, "p=R%7C100%7CG%7C200"),
        (COLOURS, {"style": "deepObject", "explode": True}, RG, "p%5BR%5D=100&p%5BG%5D=200"),
        ({}, {"style": "deepObject"}, {"a": {"b": "x"}}, "p%5Ba%5D%5Bb%5D=x"),
        ({}, {"style": "deepObject"}, {"l": ["x", {"y": 1}]}, "p%5Bl%5D%5B0%5D=x&p%5Bl%5D%5B1%5D%5By%5D=1"),
        (TEXTS, {}, [], ""),
        (TEXTS, {"explode": False}, [], ""),
        ({"type": "string"}, {"allowReserved": True}, "a/b:c?d&e=f#g h", "p=a/b:c?d%26e%3Df%23g%20h"),
        ({"type": "boolean"}, {}, True, "p=true"),
        ({"type": ["string", "null"]}, {}, None, "p="),
    ],
)
async def test_query_parameters(schema, more, value, query):
    request = await sent(document({"parameters": [parameter("query", schema, **more)]}), p=value)
    assert request.url.query.decode() == query


@pytest.mark.parametrize(
    ("schema", "more", "value", "path"),
    [
        (TEXTS, {}, ["a", "b,c"], "/x/a,b%2Cc"),
        (COLOURS, {}, RG, "/x/R,100,G,200"),
        (COLOURS, {"explode": True}, RG, "/x/R=100,G=200"),
        ({"type": "string"}, {"style": "label"}, "blue", "/x/.blue"),
        (TEXTS, {"style": "label"}, ["a", "b"], "/x/.a,b"),
        (TEXTS, {"style": "label", "explode": True}, ["a", "b"], "/x/.a.b"),
        (COLOURS, {"style": "label", "explode": True}, RG, "/x/.R=100.G=200"),
        ({"type": "string"}, {"style": "matrix"}, "blue", "/x/;p=blue"),
        ({"type": "string"}, {"style": "matrix"}, "", "/x/;p"),
        (TEXTS, {"style": "matrix"}, ["a", "b"], "/x/;p=a,b"),
        (TEXTS, {"style": "matrix", "explode": True}, ["a", "b"], "/x/;p=a;p=b"),
        (COLOURS, {"style": "matrix"}, RG, "/x/;p=R,100,G,200"),
        (COLOURS, {"style": "matrix", "explode": True}, RG, "/x/;R=100;G=200"),
    ],
)
async def test_path_parameters(schema, more, value, path):
    request = await sent(document({"parameters": [parameter("path", schema, **more)]}, path="/x/{p}"), p=value)
    assert request.url.raw_path.decode() == path


async def test_header_and_cookie_parameters():
    parameters = [
        {"name": "X-Ids", "in": "header", "schema": TEXTS},
        {"name": "X-Rgb", "in": "header", "schema": COLOURS, "explode": True},
        {"name": "sid", "in": "cookie", "required": True, "schema": {"type": "string"}},
        {"name": "seen", "in": "cookie", "schema": {"type": "string"}},
    ]
    made = document({"parameters": parameters})
    request = await sent(made, **{"X-Ids": ["a", "b"], "X-Rgb": RG, "sid": "a;b c"})
    assert request.headers["x-ids"] == "a,b"
    assert request.headers["x-rgb"] == "R=100,G=200"
    assert SimpleCookie(request.headers["cookie"])["sid"].value == "a%3Bb%20c"
    shown = api_tools(made)[0].schema["function"]["parameters"]["properties"]
    assert list(shown) == ["X-Ids", "X-Rgb", "sid"]  # a cookie that is not required is not left to a model


async def test_a_parameter_with_content_is_json_text():
    content = {"application/json": {"schema": COLOURS}}
    made = document({"parameters": [{"name": "p", "in": "query", "content": content}]})
    assert httpx.QueryParams((await sent(made, p=RG)).url.query.decode())["p"] == '{"R":100,"G":200}'


@pytest.mark.parametrize("style", ["spaceDelimited", "pipeDelimited"])
async def test_an_item_with_the_delimiter_in_it_is_an_error_that_the_model_reads(style):
    made = document({"parameters": [{"name": "p[]", "in": "query", "schema": TEXTS, "style": style}]})
    with pytest.raises(ToolError, match=r"^p: an item must not contain"):
        await sent(made, p=["a b|c"])


# Bodies.


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        (None, {"type": "string", "nullable": True}),
        (0, {}),
        (False, {}),
        ("", {}),
        ([], TEXTS),
        ({}, {"type": "object"}),
    ],
)
async def test_bodies_that_are_null_or_empty_are_sent(value, schema):
    request = await sent(with_body(schema, version="3.0.3"), body=value)
    assert request.content.decode() == json.dumps(value)
    assert request.headers["content-type"] == "application/json"


async def test_a_body_that_is_not_required_may_be_left_out():
    request = await sent(with_body({"type": "object", "properties": {"a": {}}}, required=False))
    assert request.content == b""
    assert "content-type" not in request.headers


@pytest.mark.parametrize(
    ("schema", "encoding", "value", "body"),
    [
        (TEXTS, None, ["a", "b"], "f=a&f=b"),
        (TEXTS, {"style": "form", "explode": False}, ["a", "b"], "f=a,b"),
        (TEXTS, {"style": "deepObject", "explode": True}, ["a", "b"], "f%5B0%5D=a&f%5B1%5D=b"),
        (COLOURS, None, RG, "f=%7B%22R%22%3A100%2C%22G%22%3A200%7D"),
        (COLOURS, {"contentType": "application/json"}, RG, "f=%7B%22R%22%3A100%2C%22G%22%3A200%7D"),
        (COLOURS, {"style": "deepObject", "explode": True}, RG, "f%5BR%5D=100&f%5BG%5D=200"),
        (COLOURS, {"style": "form", "explode": True}, RG, "R=100&G=200"),
        ({"type": "string"}, {"contentType": "text/plain"}, "a b&c", "f=a+b%26c"),
    ],
)
async def test_fields_of_a_form(schema, encoding, value, body):
    form = {"type": "object", "properties": {"f": schema}}
    made = with_body(form, "application/x-www-form-urlencoded", encoding={"f": encoding} if encoding else None)
    request = await sent(made, f=value)
    assert request.content.decode() == body
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"


async def test_other_content_types():
    assert (await sent(with_body({"type": "string"}, "text/plain"), body="é")).content == "é".encode()
    request = await sent(with_body({"type": "object", "properties": {"a": {}}}, "application/vnd.x+json"), a=1)
    assert (request.content, request.headers["content-type"]) == (b'{"a":1}', "application/vnd.x+json")
    request = await sent(with_body({"type": "object", "properties": {"a": {}}}, "*/*"), a=1)
    assert request.headers["content-type"] == "application/json"


# Servers.


async def called(made, **options):
    """Where the request of the only tool goes, and whether it carries the key."""
    from agentrl.tools.http_api import api_key

    echo = Echo()
    (tool,) = api_tools(made, transport=echo, auth=api_key("X-Key", "THE_KEY"), **options)
    await tool.function(**tool.validate({}))
    return str(echo.seen[0].url), "x-key" in echo.seen[0].headers


def with_servers(path_servers=None, own=None):
    made = document({"servers": [{"url": own}]} if own else {})
    if path_servers:
        made["paths"]["/x"]["servers"] = [{"url": path_servers}]
    return made


@pytest.mark.parametrize(
    ("path_servers", "own", "options", "url"),
    [
        (None, None, {}, "https://api.test/x"),
        ("https://files.test/up", None, {}, "https://files.test/up/x"),
        ("https://files.test/up", "https://own.test", {}, "https://own.test/x"),
        ("/v2", None, {}, "https://api.test/v2/x"),
        ("https://api.test", None, {"base_url": "http://127.0.0.1:1/t"}, "http://127.0.0.1:1/t/x"),
        ("/v2", None, {"base_url": "http://127.0.0.1:1"}, "http://127.0.0.1:1/v2/x"),
        (
            "https://files.test",
            None,
            {"base_url": "http://127.0.0.1:1", "allow_hosts": ["127.0.0.1:1", "files.test"]},
            "https://files.test/x",
        ),
    ],
)
async def test_servers_of_a_path_and_of_an_operation(path_servers, own, options, url, monkeypatch):
    monkeypatch.setenv("THE_KEY", "k" * 9)
    assert await called(with_servers(path_servers, own), **options) == (url, True)


@pytest.mark.parametrize("options", [{"base_url": "http://127.0.0.1:1"}, {"allow_hosts": ["api.test"]}])
def test_a_host_that_was_not_asked_for_is_refused_by_name(options):
    with pytest.raises(
        ToolSchemaError, match=r"op: its server is https://files.test, and .*allow_hosts=\['files.test'"
    ):
        api_tools(with_servers("https://files.test"), **options)


def test_a_server_with_a_variable_and_no_value_is_refused():
    made = {**document({}), "servers": [{"url": "https://{region}.test"}]}
    with pytest.raises(ToolSchemaError, match=r"has no value for \{region\}: give base_url"):
        api_tools(made)


# What cannot be offered.


def mixed():
    made = document({"operationId": "good"})
    bodies = {"/b": {"application/xml": {}}, "/c": {"multipart/form-data": {"schema": {}}}}
    for path, content in bodies.items():
        made["paths"][path] = {"post": {"operationId": path[1:], "requestBody": {"content": content}}}
    return made


def test_one_bad_operation_does_not_spoil_a_document(caplog):
    tools = api_tools(mixed())
    assert [tool.name for tool in tools] == ["good"]
    reason = "it takes a body of application/xml, which a tool cannot send"
    assert (tools.skipped[0].name, tools.skipped[0].reason) == ("b", reason)
    assert "2 operations are left out" in caplog.text
    with pytest.raises(ToolSchemaError, match=r"b cannot be a tool: .*leave it out with exclude=\['b'\]"):
        api_tools(mixed(), on_unsupported="refuse")
    with pytest.raises(ToolSchemaError, match="c cannot be a tool"):
        api_tools(mixed(), include=["good", "c"])
    with pytest.raises(ValueError, match="on_unsupported must be 'skip' or 'refuse'"):
        api_tools(mixed(), on_unsupported="ignore")


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        ({"parameters": [parameter("query", {}, style="matrix")]}, "style 'matrix', which a query parameter cannot"),
        ({"parameters": [parameter("body", {})]}, "stands in 'body'"),
        ({"parameters": [{"name": "p"}]}, "has no name or no place"),
        ({"parameters": [5]}, "has no name or no place"),
        ({"parameters": 5}, "cannot be read"),
        (
            {"parameters": [{"name": "p", "in": "query", "content": {"application/xml": {}}}]},
            "content 'application/xml'",
        ),
        ({"requestBody": {"content": {"application/xml": {}}}}, "a body of application/xml"),
        (
            {"requestBody": {"content": {"text/xml": {"schema": {"type": "object", "properties": {"a": {}}}}}}},
            "a body of text/xml",
        ),
        ({"requestBody": {"content": {"multipart/mixed": {"schema": COLOURS}}}}, "a body of multipart/mixed"),
        ({"requestBody": {"content": {"multipart/form-data": {"schema": TEXTS}}}}, "named fields"),
        (
            {
                "requestBody": {
                    "content": {
                        "multipart/form-data": {
                            "schema": COLOURS,
                            "encoding": {"R": {"headers": {"X-Part": {"required": True}}}},
                        }
                    }
                }
            },
            "field 'R' of its form requires the header 'X-Part'",
        ),
        ({"requestBody": {"content": {}}}, "a body of no type"),
        ({"requestBody": {"content": {"application/x-www-form-urlencoded": {"schema": TEXTS}}}}, "named fields"),
        ({"requestBody": {"content": "x"}}, "cannot be read"),
    ],
)
def test_operations_that_are_refused_by_name(operation, reason):
    with pytest.raises(ToolSchemaError, match=f"op: .*{reason}"):
        api_tools(document(operation))


@pytest.mark.parametrize(
    "paths", [None, [], 5, {"/x": None}, {"/x": {"get": None}}, {"/x": {"$ref": 5}}, {5: {"get": {}}}]
)
def test_documents_of_odd_shapes_are_read_or_refused(paths):
    made = {"openapi": "3.1.0", "servers": [{"url": "https://api.test"}], "paths": paths}
    try:
        assert len(api_tools(made)) == len(list(operations(made)))
    except ToolSchemaError as error:
        assert "cannot be read" in str(error)  # noqa: PT017


async def test_a_part_of_the_path_that_nothing_declares_is_a_text():
    assert (await sent(document({}, path="/a/{b}"), b="x/y")).url.raw_path == b"/a/x%2Fy"
