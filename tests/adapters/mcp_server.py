"""An MCP server over stdio that counts, for tests."""

import asyncio
import os

import mcp_types as types
from mcp.server.lowlevel.server import Server
from mcp.server.stdio import stdio_server

SCHEMA = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {"by": {"type": "integer"}},
}
count = 0


async def list_tools(ctx, params):
    names = ("count", "refuse", "die")
    return types.ListToolsResult(tools=[types.Tool(name=n, description=n, input_schema=SCHEMA) for n in names])


async def call_tool(ctx, params):
    global count
    if params.name == "die":
        os._exit(3)
    if params.name == "refuse":
        return types.CallToolResult(content=[types.TextContent(text="not that")], is_error=True)
    count += (params.arguments or {}).get("by", 1)
    return types.CallToolResult(content=[types.TextContent(text=str(count))])


async def main():
    server = Server("counter", on_list_tools=list_tools, on_call_tool=call_tool)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


asyncio.run(main())
