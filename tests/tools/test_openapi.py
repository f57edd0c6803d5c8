from __future__ import annotations

import asyncio
import copy
import gc
import json
import warnings
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.errors import EnvFault, ToolError, ToolSchemaError
from agentrl.tools.cassette import Cassette
from agentrl.tools.http_api import HttpSettings, Retry, api_key
from agentrl.tools.openapi import api_tools
from agentrl.tools.openapi.document import load_document

DOCUMENT = json.loads(Path(__file__).with_name("shop.openapi.json").read_text())


@pytest.fixture
def tools(server, monkeypatch):
    monkeypatch.setenv("SHOP_KEY", "k3y")
    made = api_tools(DOCUMENT, base_url=server.url, auth=api_key("api_key", "SHOP_KEY", where="query"))
    return {tool.name: tool for tool in made}


async def use(tool, **arguments):
    try:
        return await tool.function(**tool.validate(arguments))
    finally:
        await tool.aclose()


def test_every_operation_becomes_a_tool(tools):
    assert list(tools) == ["listItems", "post_items", "getItem", "renameItem", "delete_item", "plant", "bulk"]
    assert tools["listItems"].description == "List items."
    assert tools["post_items"].description == "Create an item."
    assert tools["getItem"].description == "GET /items/{item-id}"


def test_tools_can_be_put_into_a_set(tools):
    assert len(set(tools.values())) == 7


def test_the_schema_of_parameters(tools):
    parameters = tools["listItems"].schema["function"]["parameters"]
    assert parameters["required"] == ["sort"]
    assert parameters["additionalProperties"] is False
    assert parameters["properties"] == {
        "tag": {"type": "array", "items": {"type": "string"}},
        "ids": {"type": "array", "items": {"type": "integer"}},
        "limit": {"type": "integer", "minimum": 1, "maximum": 50, "default": 10},
        "sort": {"type": "string", "enum": ["price", "name"]},
        "filter": {
            "type": "object",
            "properties": {"min": {"type": "number"}, "new": {"type": "boolean"}},
            "additionalProperties": False,
        },
        "X-Trace": {"type": "string"},
    }


def test_the_schema_of_a_body_is_resolved_and_modern(tools):
    parameters = tools["post_items"].schema["function"]["parameters"]
    assert sorted(parameters["required"]) == ["name", "price"]
    assert parameters["properties"]["price"] == {"type": "number", "exclusiveMinimum": 0}
    assert parameters["properties"]["note"] == {"type": ["string", "null"]}
    assert "id" not in parameters["properties"]
    assert "$ref" not in json.dumps([tool.schema for tool in tools.values()])


async def test_a_schema_that_contains_itself_ends(tools):
    leaf = tools["plant"].schema["function"]["parameters"]["properties"]["children"]["items"]
    assert leaf["type"] == "object"
    assert await use(tools["plant"], children=[{"leaf": "a", "children": [{"leaf": "b"}]}])


async def test_a_query_as_it_arrives(tools, server):
    await use(
        tools["listItems"],
        tag=["a b", "c"],
        ids=[1, 2],
        limit=5,
        sort="name",
        filter={"min": 2, "new": True},
        **{"X-Trace": "t1"},
    )
    seen = server.seen[0]
    assert (
        seen.path
        == "/items?tag=a+b&tag=c&ids=1%2C2&limit=5&sort=name&filter%5Bmin%5D=2&filter%5Bnew%5D=true&api_key=k3y"
    )
    assert seen.headers["x-trace"] == "t1"
    await use(tools["listItems"], sort="price")
    assert server.seen[1].path == "/items?sort=price&api_key=k3y"


async def test_a_body_as_it_arrives(tools, server):
    await use(tools["post_items"], name="tea", price=2, size={"w": 3, "h-2": 4})
    assert json.loads(server.seen[0].body) == {"name": "tea", "price": 2, "size": {"w": 3, "h-2": 4}}
    await use(tools["post_items"], name="tea", price=2.5, note=None, size={"w": 1})
    assert json.loads(server.seen[1].body) == {"name": "tea", "price": 2.5, "note": None, "size": {"w": 1}}
    await use(tools["bulk"], body=[{"name": "a", "price": 1}])
    assert json.loads(server.seen[2].body) == [{"name": "a", "price": 1}]
    await use(tools["renameItem"], **{"item-id": "7", "name": "a&b c"})
    assert server.seen[3].body == b"name=a%26b+c"
    await use(tools["plant"])
    assert server.seen[4].body == b"{}"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("listItems", {}, "sort"),
        ("listItems", {"sort": "weight"}, "'price' or 'name'"),
        ("listItems", {"sort": "name", "limit": 51}, "limit.*less than or equal to 50"),
        ("listItems", {"sort": "name", "limit": "many"}, "limit.*valid integer"),
        ("listItems", {"sort": "name", "lmit": 5}, "lmit"),
        ("listItems", {"sort": "name", "api_key": "mine"}, "api_key"),
        ("post_items", {"name": "", "price": 1}, "name"),
        ("post_items", {"name": "a", "price": 0}, "greater than 0"),
        ("post_items", {"name": "a", "price": 1, "size": {"h-2": 1}}, "size.w"),
        ("post_items", {"name": "a", "price": 1, "size": {"w": 1, "d": 2}}, "size.d"),
        ("getItem", {"item-id": ".."}, "cannot be part"),
        ("getItem", {"item-id": ""}, "cannot be part"),
    ],
)
async def test_wrong_arguments_are_told_to_the_model_and_sent_nowhere(tools, server, name, arguments, message):
    with pytest.raises(ToolError, match=message):
        await use(tools[name], **arguments)
    assert not server.seen


@pytest.mark.parametrize("value", ["o/../x", "a/b", "v1/..x", "a?x=1", "a#b", "a%2Fb", "é", "//evil.test", "@evil"])
async def test_a_path_argument_stays_in_its_place(tools, server, value):
    await use(tools["getItem"], **{"item-id": value})
    path = server.seen[0].path
    assert path.startswith("/items/")
    assert path.count("/") == 2
    assert unquote(urlsplit(path).path.removeprefix("/items/")) == value


@pytest.mark.parametrize("value", ["", ".", ".."])
async def test_a_path_argument_cannot_climb(tools, server, value):
    with pytest.raises(ToolError, match="cannot be part of an address"):
        await use(tools["getItem"], **{"item-id": value})
    assert not server.seen


@pytest.mark.parametrize(
    "value", ["7/secrets", "7//secrets/", "7/notes/3", "../users", "7/../../users/", "..\\users", "7/x/../secrets"]
)
async def test_a_slash_cannot_call_another_operation(server, value):
    """Some servers read `%2F` as `/`: there, the value `7/secrets` names another operation, which may be excluded."""
    item = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    note = {"name": "n", "in": "path", "required": True, "schema": {"type": "string"}}
    paths = {
        "/items/{id}": {"get": {"operationId": "item", "parameters": [item]}},
        "/users": {"get": {"operationId": "users"}},
        "/items/{id}/secrets": {"get": {"operationId": "secrets", "parameters": [item]}},
        "/items/{id}/notes/{n}": {"get": {"operationId": "note", "parameters": [item, note]}},
    }
    tool = api_tools({"openapi": "3.0.0", "paths": paths}, base_url=server.url, include=["item"])[0]
    with pytest.raises(ToolError, match="would call another tool"):
        await use(tool, id=value)
    assert not server.seen
    await use(tool, id="group/project")
    assert server.seen[0].path == "/items/group%2Fproject"


async def test_a_header_argument_cannot_add_headers(tools, server):
    with pytest.raises(ToolError, match="printable"):
        await use(tools["listItems"], sort="name", **{"X-Trace": "a\r\nX-Admin: 1"})
    assert not server.seen


def test_include_and_exclude_by_any_name():
    chosen = api_tools(DOCUMENT, include=["getItem", "GET /items", "post_items"], exclude=["listItems"])
    assert [tool.name for tool in chosen] == ["post_items", "getItem"]
    with pytest.raises(ToolSchemaError, match="Did you mean 'getItem'"):
        api_tools(DOCUMENT, include=["getItm"])


def test_where_the_api_is(server, canned, tmp_path):
    assert str(api_tools(DOCUMENT).api.base_url) == "https://eu.shop.test/v1"
    relative = {**DOCUMENT, "servers": [{"url": "/v2"}]}
    with pytest.raises(ToolSchemaError, match="give base_url"):
        api_tools(relative)
    server.script = [canned(body=json.dumps(relative).encode())]
    assert str(api_tools(f"{server.url}/docs/openapi.json").api.base_url) == f"{server.url}/v2"
    path = tmp_path / "openapi.json"
    path.write_text(json.dumps(DOCUMENT))
    assert len(api_tools(path)) == len(api_tools(str(path))) == 7


def test_yaml(tmp_path):
    pytest.importorskip("yaml")
    path = tmp_path / "openapi.yaml"
    path.write_text("openapi: 3.1.0\nservers: [{url: 'http://x.test'}]\npaths:\n  /a:\n    get: {operationId: a}\n")
    assert [tool.name for tool in api_tools(path)] == ["a"]


def document_with(**operation):
    return {
        "openapi": "3.1.0",
        "servers": [{"url": "http://x.test"}],
        "paths": {"/a": {"post": {"operationId": "a", **operation}}},
    }


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"swagger": "2.0"}, "got version 'swagger 2.0'"),
        ({"paths": {}}, "got version None"),
        (document_with(requestBody={"content": {"multipart/form-data": {}}}), r"exclude=\['a'\]"),
        (
            document_with(requestBody={"content": {"application/json": {"schema": {"$ref": "other.json#/x"}}}}),
            "leaves the document",
        ),
        (document_with(requestBody={"content": {"application/json": {"schema": {"$ref": "#/none"}}}}), "names nothing"),
        (document_with(parameters=[{"$ref": "#/paths/~1a/post/parameters/1"}]), "names nothing"),
        (document_with(parameters=[{"$ref": "#/paths/~1a/post/parameters/0"}]), "leads back to itself"),
        (
            {**document_with(parameters=[{"$ref": "#/x"}]), "x": {"$ref": "#/y"}, "y": {"$ref": "#/x"}},
            "leads back to itself: #/x -> #/y -> #/x",
        ),
    ],
)
def test_documents_that_have_no_tool_form(document, message):
    with pytest.raises(ToolSchemaError, match=message):
        api_tools(document)


def test_references_are_pointers_with_escapes_and_positions():
    document = document_with(parameters=[{"$ref": "#/paths/~1b~1%7Bid%7D/get/parameters/0"}])
    schema = {"type": "integer", "maximum": 9}
    document["paths"]["/b/{id}"] = {"get": {"parameters": [{"name": "id", "in": "path", "schema": schema}]}}
    tools = api_tools(document, include=["a"])
    assert tools[0].schema["function"]["parameters"]["properties"] == {"id": schema}


def test_a_pattern_holds_no_model_text_for_long():
    field = {"name": "q", "in": "query", "schema": {"type": "string", "pattern": "^(a+)+$"}}
    (tool,) = api_tools(document_with(parameters=[field]))
    with pytest.raises(ToolError, match="should match pattern"):
        tool.validate({"q": "a" * 5000 + "!"})  # a backtracking engine would not end


def test_broken_json_is_named(tmp_path):
    path = tmp_path / "openapi.json"
    path.write_text('{"openapi": ')
    with pytest.raises(ToolSchemaError, match=r"openapi\.json is not valid JSON"):
        load_document(path)


async def test_schemas_of_31_unions_constants_and_maps(server):
    properties = {
        "either": {"oneOf": [{"type": "integer"}, {"type": "object", "properties": {"a": {"type": "string"}}}]},
        "maybe": {"type": ["integer", "null"]},
        "fixed": {"const": "on"},
        "map": {"type": "object", "additionalProperties": {"type": "integer"}},
        "open": {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": True},
        "any": {},
        "code": {"type": "string", "pattern": "^(?!x)[a-z]+$"},
    }
    body = {"content": {"application/json": {"schema": {"type": "object", "properties": properties}}}}
    (tool,) = api_tools(document_with(requestBody=body), base_url=server.url)
    given = {
        "either": {"a": "x"},
        "maybe": None,
        "fixed": "on",
        "map": {"k": 1},
        "open": {"a": 1, "b": 2},
        "any": [1, "x"],
        "code": "b",
    }
    await use(tool, **given)
    assert json.loads(server.seen[0].body) == given
    for wrong in ({"either": "x"}, {"maybe": "x"}, {"fixed": "off"}, {"map": {"k": "x"}}, {"open": {"a": "x"}}):
        with pytest.raises(ToolError):
            await use(tool, **wrong)
    assert len(server.seen) == 1


# In an environment.


def shop_env(server, transport=None, **settings):
    class Shop(ToolEnv):
        tasks = Tasks.of(train=[{"n": 1}], eval=[{"n": 2}])
        extra_tools = api_tools(
            DOCUMENT,
            base_url=server.url,
            include=["getItem", "post_items"],
            transport=transport,
            settings=HttpSettings(retry=Retry(attempts=2, base_s=0.001), **settings),
        )

        async def start(self, task):
            if isinstance(transport, Cassette):
                transport.start_episode(task.id)
            return "Go."

        async def score(self, answer):
            return float(answer == "done")

    return Shop


def test_an_environment_over_an_api_sync_and_forked(server):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        env = shop_env(server)()
        env.reset(seed=1)
        (message,), *_ = env.step(call("getItem", **{"item-id": "7"}))
        assert json.loads(message.content)["path"] == "/items/7"
        (message,), *_ = env.step(call("getItem"))
        assert message.content.startswith("Error: wrong arguments for getItem: item-id")
        twin = env.fork()
        assert twin.step(call("getItem", **{"item-id": "8"}))[0] == env.step(call("getItem", **{"item-id": "8"}))[0]
        assert env.step("done")[1] == 1.0
        env.close()
        twin.close()
        gc.collect()


async def test_many_environments_share_a_client_and_one_may_close_first(server):
    shop = shop_env(server)
    envs = [shop() for _ in range(8)]
    for env in envs:
        await env.areset(seed=1)
    first = envs[0].aclose()
    steps = [env.astep(call("getItem", **{"item-id": str(i)})) for i, env in enumerate(envs)]
    *results, _ = await asyncio.gather(*steps, first)
    again = await envs[1].astep(call("getItem", **{"item-id": "x"}))
    for env in envs:
        await env.aclose()
    paths = [json.loads(result[0][0].content)["path"] for result in (*results, again)]
    assert paths == [*(f"/items/{i}" for i in range(8)), "/items/x"]


def test_an_answer_of_4xx_is_a_message_and_a_dead_server_a_fault(server, canned):
    env = shop_env(server)()
    env.reset(seed=1)
    server.script = [canned(404, body=b"no item")]
    (message,), _, terminated, truncated, _ = env.step(call("getItem", **{"item-id": "7"}))
    assert message.content == "Error: status 404: no item"
    assert not terminated
    assert not truncated
    server.rest = lambda request: canned(503)
    with pytest.raises(EnvFault):
        env.step(call("getItem", **{"item-id": "7"}))
    env.close()


def test_training_offline_from_a_cassette(server, tmp_path):
    tape = tmp_path / "shop.jsonl"

    def episode(transport):
        env = shop_env(server, transport)()
        env.reset(seed=1, options={"task": "eval-0"})
        first = env.step(call("post_items", name="tea", price=2))[0]
        second = env.step(call("getItem", **{"item-id": "7"}))[0]
        env.close()
        return first, second

    recorded = episode(Cassette(tape, "record"))
    count = len(server.seen)
    assert [episode(Cassette(tape, "replay")) for _ in range(3)] == [recorded] * 3
    assert len(server.seen) == count


def test_the_document_is_not_changed():
    before = copy.deepcopy(DOCUMENT)
    api_tools(DOCUMENT)
    assert before == DOCUMENT
