"""Schemas of OpenAPI documents: null, references, unions, cycles and names, as the tools show and check them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from agentrl.errors import ToolError, ToolSchemaError
from agentrl.tools.openapi import api_tools
from agentrl.tools.openapi.schema import MAX_NODES, resolve
from tests.tools.one_operation import document, parameter, sent, with_body


@pytest.mark.parametrize("version", ["3.0.3", "3.1.0"])
@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "nullable": True},
        {"nullable": True},
        {"type": "string", "nullable": True, "enum": ["a"]},
        {"nullable": True, "allOf": [{"$ref": "#/components/schemas/O"}]},
        {"nullable": True, "allOf": [{"$ref": "#/components/schemas/E"}]},
        {"nullable": True, "anyOf": [{"type": "string"}, {"type": "integer"}]},
        {"nullable": True, "$ref": "#/components/schemas/O"},
        {"anyOf": [{"$ref": "#/components/schemas/O"}, {"type": "null"}]},
        {"type": ["string", "null"]},
        {"nullable": True, "properties": {"a": {}}},
    ],
)
async def test_null_in_the_forms_of_both_versions(version, schema):
    components = {
        "schemas": {
            "O": {"type": "object", "properties": {"a": {"type": "integer"}}},
            "E": {"type": "string", "enum": ["x", "y"]},
        }
    }
    made = with_body({"type": "object", "properties": {"p": schema}}, version=version, components=components)
    assert (await sent(made, p=None)).content == b'{"p":null}'


def test_what_stands_beside_a_reference():
    components = {"schemas": {"P": {"type": "integer", "description": "theirs"}}}
    beside = {"$ref": "#/components/schemas/P", "default": 3, "description": "ours", "maximum": 5}
    for version, found in (
        ("3.1.0", {"type": "integer", "default": 3, "description": "ours", "maximum": 5}),
        ("3.0.3", {"type": "integer", "default": 3, "description": "ours"}),
    ):
        made = document({"parameters": [parameter("query", beside)]}, version=version, components=components)
        assert api_tools(made)[0].schema["function"]["parameters"]["properties"]["p"] == found


async def test_allof_with_a_union_and_requirements():
    components = {
        "schemas": {
            "Base": {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]},
            "X": {"type": "object", "properties": {"x": {"type": "string"}}},
            "Y": {"type": "object", "properties": {"y": {"type": "string"}}},
        }
    }
    union = {"oneOf": [{"$ref": "#/components/schemas/X"}, {"$ref": "#/components/schemas/Y"}]}
    whole = {"allOf": [{"$ref": "#/components/schemas/Base"}, union, {"required": ["x"]}]}
    made = with_body(whole, components=components)
    assert json.loads((await sent(made, body={"id": 1, "x": "q"})).content) == {"id": 1, "x": "q"}
    for wrong in ({"x": "q"}, {"id": 1, "z": 1}):
        with pytest.raises(ToolError, match=r"body\.(id|z) is"):
            await sent(made, body=wrong)


async def test_unions_of_requirements_leave_a_body_flat():
    whole = {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
    }
    assert (await sent(with_body(whole), b="x")).content == b'{"b":"x"}'


@pytest.mark.parametrize(
    ("values", "right", "wrong"),
    [
        ([0.5, 1.5], [0.5], [0.7]),
        ([0, 1], [0, 1.0], [True, "0"]),
        ([True], [True], [1]),
        ([{"a": 1}], [{"a": 1}], [{"a": 2}, {"a": True}, {}]),
        ([[1]], [[1]], [[2], []]),
        (["a", None], ["a", None], ["b", ""]),
    ],
)
async def test_enumerations_of_every_kind(values, right, wrong):
    made = with_body({"type": "object", "properties": {"p": {"enum": values}}})
    for value in right:
        assert json.loads((await sent(made, p=value)).content) == {"p": value}
    for value in wrong:
        with pytest.raises(ToolError, match="p should be"):
            await sent(made, p=value)


@pytest.mark.parametrize("fan", [2, 40])
def test_references_that_fan_out_are_bounded_in_size_and_time(fan):
    """Level by level each names the next several times: written out, that would be fan ** 15."""
    names = [f"m{i}" for i in range(fan)]
    levels = {
        f"L{i}": {"type": "object", "properties": {n: {"$ref": f"#/components/schemas/L{i + 1}"} for n in names}}
        for i in range(15)
    }
    components = {"schemas": {**levels, "L15": {"type": "string"}}}
    made = with_body({"$ref": "#/components/schemas/L0"}, components=components)
    began = time.process_time()
    (tool,) = api_tools(made)
    tool.validate({})
    assert time.process_time() - began < 5
    text = json.dumps(tool.schema)
    assert len(text) < 200 * MAX_NODES
    assert "which is not written out here" in text


def test_aliases_that_fan_out_without_references_are_refused(tmp_path):
    pytest.importorskip("yaml")
    lines = ["a0: &a0 {type: string}"]
    for i in range(1, 12):
        members = ", ".join(f"m{n}: *a{i - 1}" for n in range(8))
        lines.append(f"a{i}: &a{i} {{type: object, properties: {{{members}}}}}")
    head = "openapi: 3.1.0\nservers: [{url: 'http://x.test'}]\n"
    tail = "\npaths: {/a: {get: {operationId: a, parameters: [{name: q, in: query, schema: *a11}]}}}\n"
    path = tmp_path / "laughs.yaml"
    path.write_text(head + "\n".join(lines) + tail)
    with pytest.raises(ToolSchemaError, match="no operation can be a tool; a: a schema holds more"):
        api_tools(path)


def test_cycles_end():
    schemas = {
        "A": {"type": "object", "properties": {"b": {"$ref": "#/components/schemas/B"}, "more": {"type": "array"}}},
        "B": {"allOf": [{"$ref": "#/components/schemas/A"}, {"properties": {"z": {"type": "integer"}}}]},
        "M": {"type": "object", "additionalProperties": {"$ref": "#/components/schemas/M"}},
        "U": {"oneOf": [{"$ref": "#/components/schemas/U"}, {"type": "string"}]},
    }
    for name in schemas:
        found = resolve(
            {"$ref": f"#/components/schemas/{name}"}, {"openapi": "3.1.0", "components": {"schemas": schemas}}
        )
        assert "$ref" not in json.dumps(found)


def test_the_longer_of_summary_and_description_is_shown():
    def shown(**texts):
        return api_tools(document(texts))[0].description

    assert shown(summary="Give Back", description="Take a loan back.\n\nMore.") == "Take a loan back."
    assert shown(summary="Take a loan back.", description="Loans") == "Take a loan back."
    assert shown() == "GET /x"
    assert len(shown(description="long " * 500)) == 300


def test_names_suit_every_server():
    names = ("filter[name]", "$top", "@type", "a.b", "q" * 90, "名")
    made = document({"parameters": [{"name": n, "in": "query", "schema": {}} for n in names]})
    shown = api_tools(made)[0].schema["function"]["parameters"]["properties"]
    assert list(shown) == ["filter_name", "top", "type", "a.b", "q" * 64, "value"]


async def test_names_are_the_documents_in_the_request_and_the_models_in_messages():
    made = document({"parameters": [{"name": "filter[n]", "in": "query", "schema": {"type": "integer"}}]})
    assert (await sent(made, filter_n=3)).url.query == b"filter%5Bn%5D=3"
    with pytest.raises(ToolError, match="wrong arguments for op: filter_n should be a valid integer"):
        await sent(made, filter_n="x")


def test_a_schema_that_is_none_does_not_fail_a_call(caplog):
    odd = {"type": "string", "minLength": "three", "pattern": "(["}
    odder = {"type": "object", "properties": {"a": {"type": 5}}, "required": 7}
    made = with_body({"type": "object", "properties": {"a": odd, "b": odder, "c": {"enum": []}}})
    (tool,) = api_tools(made)
    assert tool.validate({"a": "x", "b": {"a": 1}})


def test_yaml_reads_the_values_that_json_has(tmp_path):
    pytest.importorskip("yaml")
    path = tmp_path / "a.yaml"
    path.write_text(
        "openapi: 3.0.0\ninfo: {version: 2020-01-01}\nservers: [{url: 'http://x.test'}]\npaths:\n  /x:\n    get:\n"
        "      operationId: x\n      parameters:\n"
        "      - {name: c, in: query, schema: {enum: [NO, on, 1.5, 2020-01-01, 012, 0x1F, 1e3, true, null, ~, '']}}\n"
        "      responses: {200: {description: ok}}\n"
    )
    shown = api_tools(path)[0].schema["function"]["parameters"]["properties"]["c"]["enum"]
    assert shown == ["NO", "on", 1.5, "2020-01-01", "012", "0x1F", 1000.0, True, None, None, ""]


async def test_a_document_that_fastapi_wrote():
    path = Path(__file__).with_name("loan_desk.openapi.json")
    options = {"base_url": "http://desk.test", "session": "X-Session", "reset": "reset", "seed": "seed"}
    tools = {t.name: t for t in api_tools(path, exclude=["state", "give_back"], **options)}
    assert list(tools) == ["member", "books", "copies", "lend"]
    assert tools["member"].description == "A member and the loan period they may have."
    assert "x-session" not in json.dumps([t.schema for t in tools.values()]).lower()
    books = tools["books"].schema["function"]["parameters"]["properties"]
    assert books["genre"]["anyOf"] == [{"type": "string", "enum": ["crime", "poetry", "travel"]}, {"type": "null"}]
    assert (books["page"]["minimum"], books["page"]["maximum"], books["page"]["default"]) == (1, 9, 1)
    lend = tools["lend"].schema["function"]["parameters"]
    assert lend["required"] == ["member", "copy_id"]
    assert lend["properties"]["period"] == {"type": "string", "enum": ["week", "month"], "default": "week"}
    assert tools["lend"].validate({"member": 1, "copy_id": 2, "note": None})
    with pytest.raises(ToolError, match="period should be 'week' or 'month'"):
        tools["lend"].validate({"member": 1, "copy_id": 2, "period": "year"})
