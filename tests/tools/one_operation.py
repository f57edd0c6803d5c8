"""Documents of one operation, and the request that its tool sends."""

from __future__ import annotations

import httpx

from agentrl.tools.openapi import api_tools


class Echo(httpx.AsyncBaseTransport):
    """Keeps the requests, and answers with nothing."""

    def __init__(self):
        self.seen = []

    async def handle_async_request(self, request):
        await request.aread()
        self.seen.append(request)
        return httpx.Response(200, json={})


def document(operation, path="/x", method="get", version="3.1.0", **more):
    operation = {"operationId": "op", "responses": {}, **operation}
    return {"openapi": version, "servers": [{"url": "https://api.test"}], "paths": {path: {method: operation}}, **more}


def with_body(schema, kind="application/json", version="3.1.0", required=True, encoding=None, **more):
    media = {"schema": schema, **({"encoding": encoding} if encoding else {})}
    body = {"required": required, "content": {kind: media}}
    return document({"requestBody": body}, method="post", version=version, **more)


async def sent(made, /, **arguments):
    """The request that a tool sends."""
    echo = Echo()
    (tool,) = api_tools(made, transport=echo)
    await tool.function(**tool.validate(arguments))
    (request,) = echo.seen
    return request


def parameter(place, schema, **more):
    return {"name": "p", "in": place, "schema": schema, "required": place == "path", **more}
