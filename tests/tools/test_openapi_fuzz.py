"""Documents, arguments and replies that nobody wrote: each is refused by name or gives requests that can be sent."""

from __future__ import annotations

import json
from typing import Any

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentrl.errors import EnvFault, ToolError, ToolSchemaError
from agentrl.tools.http_api import HttpApi, HttpSettings, Retry, reply_text
from agentrl.tools.openapi import api_tools
from agentrl.wire.request_text import is_unicode

BOUNDED = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
WORDS = st.sampled_from(["a", "id", "filter[x]", "名", "", "X-Trace", "Cookie", "self", "body", "p0", "model_config"])
TYPES = st.sampled_from(["string", "integer", "number", "boolean", "null", "object", "array", "file", 7, None])
REFERENCES = st.sampled_from(["#/components/schemas/A", "#/components/schemas/B", "#/nothing", "http://x/y", "#", 5])


def schemas(inner: Any) -> Any:
    known = {
        "type": TYPES | st.lists(TYPES, max_size=3),
        "enum": st.lists(JSON, max_size=3) | JSON,
        "const": JSON,
        "default": JSON,
        "nullable": st.booleans(),
        "required": st.lists(WORDS, max_size=3) | JSON,
        "properties": st.dictionaries(WORDS, inner, max_size=3) | JSON,
        "additionalProperties": inner | st.booleans(),
        "items": inner | st.lists(inner, max_size=2),
        "allOf": st.lists(inner, max_size=2) | JSON,
        "oneOf": st.lists(inner, max_size=3),
        "anyOf": st.lists(inner, max_size=3) | JSON,
        "minimum": JSON,
        "maxLength": JSON,
        "minItems": st.integers(-5, 5),
        "exclusiveMinimum": JSON,
        "format": st.sampled_from(["binary", "byte", "date", 5]),
        "contentMediaType": st.sampled_from(["image/png", "application/json", "", 5]),
        "pattern": st.sampled_from(["^a+$", "(", "(?!x)", "\\", 5]),
        "readOnly": st.booleans(),
        "description": JSON,
        "$ref": REFERENCES,
    }
    return st.fixed_dictionaries({}, optional=known) | JSON


SCHEMAS = st.recursive(st.fixed_dictionaries({"type": TYPES}), schemas, max_leaves=5)
ENCODINGS = st.fixed_dictionaries(
    {},
    optional={
        "contentType": st.sampled_from(["image/png, image/jpeg", "application/json", "text/plain", "\r\n", 5]),
        "style": st.sampled_from(["form", "deepObject", "odd"]),
        "headers": st.dictionaries(WORDS, st.fixed_dictionaries({"required": st.booleans()}), max_size=1) | JSON,
    },
)
CONTENT = st.dictionaries(
    st.sampled_from(
        [
            *("application/json", "application/x-www-form-urlencoded", "text/plain", "multipart/form-data", ""),
            *("application/octet-stream", "image/*", "application/xml", "text/csv", "multipart/mixed"),
        ]
    ),
    st.fixed_dictionaries(
        {}, optional={"schema": SCHEMAS, "encoding": st.dictionaries(WORDS, ENCODINGS | JSON, max_size=2) | JSON}
    ),
    max_size=2,
)
PARAMETERS = st.fixed_dictionaries(
    {"name": WORDS | JSON, "in": st.sampled_from(["path", "query", "header", "cookie", "body", 3])},
    optional={
        "schema": SCHEMAS,
        "content": CONTENT | JSON,
        "style": st.sampled_from(["form", "simple", "label", "matrix", "deepObject", "pipeDelimited", "odd", 1]),
        "explode": st.booleans() | JSON,
        "required": st.booleans(),
        "allowReserved": st.booleans(),
        "description": JSON,
    },
)
OPERATIONS = st.fixed_dictionaries(
    {},
    optional={
        "operationId": st.text(max_size=8) | JSON,
        "parameters": st.lists(PARAMETERS | JSON, max_size=4) | JSON,
        "requestBody": st.fixed_dictionaries({"content": CONTENT | JSON}, optional={"required": st.booleans()}) | JSON,
        "servers": st.lists(st.fixed_dictionaries({"url": st.sampled_from(["/v2", "http://o.test", "{x}", ""])}))
        | JSON,
        "summary": JSON,
    },
)
PATHS = st.dictionaries(
    st.sampled_from(["/a", "/a/{id}", "/a/{id}/{b}", "", "{", "/{}"]),
    st.dictionaries(st.sampled_from(["get", "post", "parameters", "$ref", "servers"]), OPERATIONS | JSON, max_size=3)
    | JSON,
    max_size=3,
)
DOCUMENTS = st.fixed_dictionaries(
    {"openapi": st.sampled_from(["3.0.3", "3.1.0"]), "servers": st.just([{"url": "http://x.test"}]), "paths": PATHS},
    optional={"components": st.fixed_dictionaries({"schemas": st.fixed_dictionaries({"A": SCHEMAS, "B": SCHEMAS})})},
)


class Echo(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        return httpx.Response(200, text="ok")


async def called(tool: Any, arguments: dict[str, Any]) -> None:
    """A call, as an environment makes it: the model reads a ToolError."""
    try:
        text = await tool.function(**tool.validate(arguments))
    except ToolError as error:
        text = str(error)
    assert is_unicode(text)


@BOUNDED
@given(DOCUMENTS, st.lists(JSON, min_size=4, max_size=4))
async def test_a_document_is_refused_by_name_or_its_tools_can_be_called(document: Any, values: list[Any]) -> None:
    try:
        tools = api_tools(document, transport=Echo())
    except ToolSchemaError:
        return
    for tool in tools:
        shown = tool.schema["function"]
        json.dumps(shown)
        names = list(shown["parameters"]["properties"])
        await called(tool, {name: values[i % 4] for i, name in enumerate(names)})
        await called(tool, {"no such": values[0]})


class Answer(httpx.AsyncByteStream):
    def __init__(self, content: bytes) -> None:
        self.content = content

    async def __aiter__(self) -> Any:
        yield self.content


NAMES = st.sampled_from(["content-type", "content-encoding", "retry-after", "location", "retry-after-ms"])
VALUES = st.sampled_from(
    [
        *("application/json", "text/plain; charset=utf-7", "text/plain; charset=\x80", "gzip", "br", "deflate"),
        *("1e999", "nan", "-5", "Fri, 31 Dec 1999 23:59:59", "Wed, 99 Foo"),
        *("http://", "//evil.test", "/x", "\x00", "gopher://x.test/", "http://[::"),
    ]
)


@BOUNDED
@given(
    st.integers(200, 599),
    st.dictionaries(NAMES, VALUES, max_size=4),
    st.binary(max_size=200) | st.sampled_from([b"\x1f\x8b", b"[" * 5000, b'{"a": NaN}', b'"\\ud800"']),
)
async def test_an_answer_is_a_text_an_error_that_the_model_reads_or_a_fault(
    status: int, headers: dict[str, str], body: bytes
) -> None:
    class Server(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
            return httpx.Response(status, headers=raw, stream=Answer(body))

    quick = HttpSettings(follow_redirects=True, retry=Retry(attempts=2, base_s=0, max_wait_s=0, max_asked_s=0))
    api = HttpApi("http://x.test", transport=Server(), settings=quick)

    async def ask() -> str:
        try:
            return str(reply_text(await api.request("GET", "/a")))
        except (ToolError, EnvFault) as error:
            return str(error)

    assert is_unicode(await ask())
