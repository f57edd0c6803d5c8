"""An agent over one chat API, by the API's own Python client. `chat_client.py chat|responses|messages`.

It asks for one episode after the other, as a process of `agentrl capture --processes`. An episode ends with the first
answer. Every other turn is asked for in pieces.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from typing import Any

_MOST_TOKENS = 100_000
Json = dict[str, Any]


def asked(url: str, key: str, body: Json | None = None) -> str:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    sent = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, sent, headers), timeout=60) as reply:
            return str(reply.read().decode())
    except urllib.error.HTTPError as error:  # the episode is over
        return str(json.load(error)["error"]["message"])


def of_episode(path: str, body: Json | None = None) -> str:
    return asked(os.environ["AGENTRL_URL"] + path, os.environ["AGENTRL_KEY"], body)


def tool(name: str, arguments: Json) -> str:
    return of_episode(f"/tools/{name}", arguments)


def chat(messages: list[Any], tools: list[Json]) -> None:
    """Chat Completions."""
    from openai import OpenAI

    client, number = OpenAI(), 0
    while True:
        given: Json = {"model": "any", "messages": messages, **({"tools": tools} if tools else {})}
        if number % 2:
            with client.chat.completions.stream(**given) as stream:
                message = stream.get_final_completion().choices[0].message
        else:
            message = client.chat.completions.create(**given).choices[0].message
        number += 1
        messages.append(message.to_dict())
        if not message.tool_calls:
            return
        for call in message.tool_calls:
            result = tool(call.function.name, json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


def responses(messages: list[Any], tools: list[Json]) -> None:
    """Responses."""
    from openai import OpenAI

    client, number = OpenAI(), 0
    offered = [{"type": "function", **t["function"], "strict": False} for t in tools]
    while True:
        given: Json = {"model": "any", "input": messages, "tools": offered, "store": False}
        if number % 2:
            with client.responses.stream(**given) as stream:
                response = stream.get_final_response()
        else:
            response = client.responses.create(**given)
        number += 1
        messages += [item.to_dict() for item in response.output]
        calls = [item for item in response.output if item.type == "function_call"]
        if not calls:
            return
        for call in calls:
            result = tool(call.name, json.loads(call.arguments))
            messages.append({"type": "function_call_output", "call_id": call.call_id, "output": result})


def messages_api(messages: list[Any], tools: list[Json]) -> None:
    """Anthropic Messages."""
    from anthropic import Anthropic

    client, number = Anthropic(), 0
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    messages = [m for m in messages if m["role"] != "system"]
    offered = [
        {
            "name": t["function"]["name"],
            "description": t["function"].get("description", ""),
            "input_schema": t["function"].get("parameters") or {"type": "object", "properties": {}},
        }
        for t in tools
    ]
    while True:
        given: Json = {"model": "any", "max_tokens": _MOST_TOKENS, "messages": messages, "tools": offered}
        given |= {"system": system} if system else {}
        if number % 2:
            with client.messages.stream(**given) as stream:
                message = stream.get_final_message()
        else:
            message = client.messages.create(**given, timeout=60)
        number += 1
        messages.append({"role": "assistant", "content": [block.to_dict() for block in message.content]})
        calls = [block for block in message.content if block.type == "tool_use"]
        if not calls:
            return
        results = [{"type": "tool_result", "tool_use_id": c.id, "content": tool(c.name, dict(c.input))} for c in calls]
        messages.append({"role": "user", "content": results})


def main() -> None:
    api = {"chat": chat, "responses": responses, "messages": messages_api}[sys.argv[1]]
    while True:
        variables = asked(os.environ["AGENTRL_NEXT_URL"], os.environ["AGENTRL_NEXT_KEY"], {})
        if not variables:
            continue
        os.environ.update(json.loads(variables))
        problem = ""
        try:
            api(json.loads(of_episode("/task"))["messages"], json.loads(of_episode("/tools")))
        except Exception as error:
            problem = repr(error)
        of_episode("/done", {"error": problem})


if __name__ == "__main__":
    main()
