"""What documents of real APIs hold: items of paths, names that clash, defaults, unions, methods without a body."""

from __future__ import annotations

import json
import re

import httpx
import pytest

from agentrl.errors import ToolError, ToolSchemaError
from agentrl.tools.openapi import api_tools
from tests.tools.one_operation import Echo, document, sent, with_body

TEXT = {"type": "string"}


def many(paths, **more):
    return {"openapi": "3.0.3", "servers": [{"url": "https://api.test/v1"}], "paths": paths, **more}


async def call(made, operation, /, **arguments):
    echo = Echo()
    tool = next(t for t in api_tools(made, transport=echo) if t.name == operation)
    await tool.function(**tool.validate(arguments))
    return echo.seen[0]


async def test_what_stands_at_a_path_counts_for_its_operations():
    whole = {
        "allOf": [
            {"type": "object", "required": ["url"], "properties": {"url": TEXT}},
            {"type": "object", "properties": {"n": {"type": "integer"}}},
        ]
    }
    item = {
        "summary": "S",
        "description": "D",
        "x-internal": 1,
        "parameters": [{"name": "id", "in": "path", "required": True, "schema": TEXT}],
        "get": {"operationId": "look"},
        "post": {
            "operationId": "scrape",
            "requestBody": {"required": True, "content": {"application/json": {"schema": whole}}},
        },
    }
    made = many({"/c/{id}": item})
    look, scrape = api_tools(made)
    assert list(look.parameters["properties"]) == ["id"]
    assert scrape.parameters["required"] == ["id", "url"]
    request = await call(made, "scrape", id="7", url="u", n=2)
    assert (request.url.path, request.content) == ("/v1/c/7", b'{"url":"u","n":2}')


async def test_a_parameter_of_the_operation_replaces_that_of_the_path():
    size = {"name": "size", "in": "query", "schema": {"type": "integer", "default": 30}}
    shared = [{"$ref": "#/components/parameters/size"}, {"name": "o", "in": "query", "schema": TEXT}]
    own = [{"name": "size", "in": "query", "schema": {"type": "string", "enum": ["s", "l"]}}]
    item = {"parameters": shared, "get": {"operationId": "a"}, "put": {"operationId": "b", "parameters": own}}
    made = many({"/r": item}, components={"parameters": {"size": size}})
    first, second = (tool.parameters["properties"] for tool in api_tools(made))
    assert first == {"size": {"type": "integer", "default": 30}, "o": TEXT}
    assert second["size"] == {"type": "string", "enum": ["s", "l"]}
    assert (await call(made, "a", o="x")).url.query == b"o=x"  # a default is shown, and the server applies it


async def test_names_that_clash_are_numbered_and_sent_under_their_own():
    parameters = [
        {"name": "id", "in": "path", "required": True, "schema": TEXT},
        {"name": "id", "in": "query", "schema": {"type": "integer"}},
        {"name": "self", "in": "query", "schema": TEXT},
    ]
    body = {"content": {"application/json": {"schema": {"type": "object", "properties": {"id": TEXT, "body": TEXT}}}}}
    made = document({"parameters": parameters, "requestBody": body}, path="/x/{id}", method="post")
    (tool,) = api_tools(made)
    assert list(tool.parameters["properties"]) == ["id", "id_2", "self", "body"]
    request = await sent(made, id="p", id_2=5, self="s", body={"id": "b", "body": "t"})
    assert (request.url.raw_path, request.content) == (b"/x/p?id=5&self=s", b'{"id":"b","body":"t"}')


def test_every_operation_has_a_name_of_its_own_that_servers_take():
    operation = {"responses": {}}
    paths = {
        "/a/{b}/c": {"get": operation, "post": operation},
        "/d": {
            "get": {"operationId": "список"},
            "post": {"operationId": "x" * 70 + "1"},
            "put": {"operationId": "x" * 70 + "2"},
        },
        "/e": {"get": {"operationId": "a.b"}, "post": {"operationId": "a/b"}},
    }
    names = [tool.name for tool in api_tools(many(paths))]
    assert len(set(names)) == 7
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in names)


@pytest.mark.parametrize(
    ("servers", "found"),
    [
        (
            [{"url": "https://{r}.test:{p}/{v}/", "variables": {"r": {"default": "eu"}, "p": {"default": 8443}}}],
            "has no value for {v}",
        ),
        ([{"url": "https://{r}.test", "variables": {"r": {"enum": ["eu", "us"], "default": "us"}}}], "https://us.test"),
        ([], "names no full server address"),
        (None, "names no full server address"),
        ("https://api.test", "names no full server address"),
        ([{"url": "https://a.test/v1/"}, {"url": "https://b.test"}], "https://a.test/v1/"),
    ],
)
def test_servers_with_variables_and_without_an_address(servers, found):
    made = {**document({}), "servers": servers}
    if found.startswith("https"):
        assert str(api_tools(made).api.base_url) == found
    else:
        with pytest.raises(ToolSchemaError, match=re.escape(found)):
            api_tools(made)


async def test_a_union_with_a_discriminator_is_told_apart_by_its_members():
    kind = {"kind": TEXT}
    schemas = {
        "Cat": {"type": "object", "required": ["kind"], "properties": {**kind, "lives": {"type": "integer"}}},
        "Dog": {"type": "object", "required": ["kind"], "properties": {**kind, "bark": {"type": "boolean"}}},
        "Pet": {
            "oneOf": [{"$ref": "#/components/schemas/Cat"}, {"$ref": "#/components/schemas/Dog"}],
            "discriminator": {"propertyName": "kind", "mapping": {"cat": "#/components/schemas/Cat"}},
        },
    }
    made = with_body({"$ref": "#/components/schemas/Pet"}, components={"schemas": schemas})
    assert (await sent(made, body={"kind": "dog", "bark": True})).content == b'{"kind":"dog","bark":true}'
    with pytest.raises(ToolError, match=r"body\.tail is not an argument"):
        await sent(made, body={"kind": "dog", "tail": 1})


async def test_a_required_member_that_is_not_declared_stops_nobody():
    made = with_body({"type": "object", "required": ["ghost", "a"], "properties": {"a": TEXT}})
    assert api_tools(made)[0].parameters["required"] == ["a"]
    assert (await sent(made, a="1")).content == b'{"a":"1"}'


@pytest.mark.parametrize(
    ("kind", "value", "query"),
    [
        ("integer", "5", "p=5"),
        ("integer", 2**70, f"p={2**70}"),
        ("boolean", True, "p=true"),
        ("number", 1e22, "p=1e%2B22"),
        ("number", 5, "p=5"),
        ("number", "1.50", "p=1.5"),
        ("string", "a b+c&d=e#f?g/ü%20\n", "p=a+b%2Bc%26d%3De%23f%3Fg%2F%C3%BC%2520%0A"),
    ],
)
async def test_values_as_text_in_a_query(kind, value, query):
    made = document({"parameters": [{"name": "p", "in": "query", "schema": {"type": kind}}]})
    request = await sent(made, p=value)
    assert request.url.query.decode() == query
    if kind == "string":
        assert httpx.QueryParams(query)["p"] == value


async def test_tuples_and_schemas_that_only_the_server_checks():
    properties = {
        "pair": {"type": "array", "prefixItems": [{"type": "integer"}, TEXT]},
        "more": {"type": "integer", "exclusiveMinimum": 3},
        "if": {"if": {"type": "integer"}, "then": {"minimum": 3}},
        "day": {"type": "string", "format": "date", "contentEncoding": "base64"},
    }
    made = with_body({"type": "object", "properties": properties})
    given = {"pair": [1, "x"], "more": 4, "if": 1, "day": "tomorrow"}
    assert json.loads((await sent(made, **given)).content) == given
    with pytest.raises(ToolError, match="more should be greater than 3"):
        await sent(made, more=3)


async def test_methods_that_usually_have_no_body():
    body = {
        "required": True,
        "content": {"application/json": {"schema": {"type": "object", "properties": {"a": TEXT}}}},
    }
    operations = {
        "delete": {"operationId": "d", "requestBody": body},
        "head": {"operationId": "h"},
        "trace": {"operationId": "t"},
    }
    made = many({"/x": operations})
    assert [tool.name for tool in api_tools(made)] == ["d", "h"]  # no client of the web sends TRACE
    assert (await call(made, "d", a="1")).content == b'{"a":"1"}'


def test_a_thousand_operations_are_a_thousand_small_tools():
    tools = api_tools(many({f"/x{i}": {"get": {"operationId": f"o{i}", "deprecated": True}} for i in range(1000)}))
    assert len(tools) == 1000
    assert max(len(json.dumps(tool.schema)) for tool in tools) < 200


def test_names_that_are_numbered_stay_as_short_as_servers_take():
    parameters = [{"name": "q" * 70 + sign, "in": "query", "schema": {}} for sign in "abc"]
    (tool,) = api_tools(document({"parameters": parameters}))
    shown = list(tool.parameters["properties"])
    assert len(set(shown)) == 3
    assert max(map(len, shown)) <= 64
    tools = api_tools(many({f"/x{i}": {"get": {"operationId": "o" * 80}} for i in range(1100)}))
    assert len({tool.name for tool in tools}) == 1100
    assert max(len(tool.name) for tool in tools) <= 64
