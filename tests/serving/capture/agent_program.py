"""An agent's program as others write it: a loop over Chat Completions with the standard library alone.

Started for each episode, or (with AGENTRL_NEXT_URL) once for many. `--crash` raises after the first turn; `--early`
ends before it.
"""

import json
import os
import sys
import urllib.request


def ask(url, key, body=None):
    """The status and the text of an answer."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as reply:
        return reply.status, reply.read().decode()


def play(variables):
    url, key = variables["AGENTRL_URL"], variables["OPENAI_API_KEY"]
    tools = json.loads(ask(f"{url}/tools", key)[1])
    messages = [{"role": "user", "content": variables["AGENTRL_TASK"]}]
    for _ in range(6):
        body = {"model": "any", "messages": messages, "tools": tools}
        answer = json.loads(ask(f"{variables['OPENAI_BASE_URL']}/chat/completions", key, body)[1])
        message = answer["choices"][0]["message"]
        messages.append(message)
        if "--crash" in sys.argv:
            raise RuntimeError("I cannot read this")
        if not message.get("tool_calls"):
            break
        for call in message["tool_calls"]:
            arguments = json.loads(call["function"]["arguments"])
            result = ask(f"{url}/tools/{call['function']['name']}", key, arguments)[1]
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})


def main():
    if "--early" in sys.argv:
        raise SystemExit("no settings found")
    if "AGENTRL_NEXT_URL" not in os.environ:
        return play(os.environ)
    while True:
        status, text = ask(os.environ["AGENTRL_NEXT_URL"], os.environ["AGENTRL_NEXT_KEY"], {})
        if status == 200:
            variables, error = json.loads(text), ""
            try:
                play(variables)
            except Exception as problem:
                error = repr(problem)
            ask(f"{variables['AGENTRL_URL']}/done", variables["AGENTRL_KEY"], {"error": error})


main()
