"""No form of a key stands in a text: not in a log, an error, a header that is shown, or a redirect."""

import logging
from typing import Any

import pytest

from agentrl.errors import ConfigError, PolicyFault
from agentrl.policy.chat import ChatPolicy
from tests.policy.chat_replies import error
from tests.policy.chat_server import KEY, ChatServer
from tests.policy.one_turn import TOOLS, ask


async def test_the_key_is_in_no_text(server: ChatServer, caplog: pytest.LogCaptureFixture) -> None:
    secret = "header-secret-77"
    policy = ChatPolicy(
        "bot", base_url=f"http://user:{KEY}@127.0.0.1/v1?key={KEY}", headers={"X-Gateway": secret}, max_retries=0
    )
    shown = repr(policy) + repr(policy.options) + str(vars(policy.options).get("api_key"))
    assert KEY not in shown
    assert secret not in shown
    server.script(*[{"status": 500, "json": error(f"you sent Bearer {KEY} and {secret}")}] * 2)
    with caplog.at_level(logging.DEBUG, logger="agentrl"), pytest.raises(PolicyFault) as caught:
        await ask(server, headers={"X-Gateway": secret}, max_retries=1)
    assert "you sent Bearer REDACTED and REDACTED" in str(caught.value)
    assert KEY not in caplog.text
    assert secret not in caplog.text
    assert server.log()["requests"][0]["headers"]["X-Gateway"] == secret


@pytest.mark.parametrize(
    "form", ["sk/secret+key=1", "c2svc2VjcmV0K2tleT0x", "sk%2Fsecret%2Bkey%3D1"], ids=["plain", "base64", "percent"]
)
@pytest.mark.parametrize("entry", [{"status": 500}, {"status": 401}, {"status": 200}, {"json": {}}])
async def test_no_form_of_the_key_is_in_an_error(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch, form: str, entry: dict[str, Any]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk/secret+key=1")
    said = f"you sent {form}"
    server.script({"json": {"error": said}} if "json" in entry else {**entry, "text": said})
    with pytest.raises((PolicyFault, ConfigError), match="you sent REDACTED"):
        await ask(server, max_retries=0)


@pytest.mark.parametrize("length", range(460, 500, 3))
async def test_a_long_error_is_not_cut_inside_the_key(server: ChatServer, length: int) -> None:
    server.script({"status": 500, "text": "x" * length + KEY})
    with pytest.raises(PolicyFault) as caught:
        await ask(server, max_retries=0)
    assert "sk-" not in str(caught.value)


@pytest.mark.parametrize("echoed", ["Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"])
async def test_credentials_in_a_header_are_secret_with_and_without_their_scheme(
    server: ChatServer, echoed: str
) -> None:
    server.script({"status": 500, "json": error(f"you sent {echoed}.")})
    with pytest.raises(PolicyFault, match=r"you sent REDACTED\."):
        await ask(server, headers={"authorization": "Basic dXNlcjpwYXNz"}, max_retries=0)


async def test_a_key_with_a_newline_works_and_one_with_control_characters_is_refused_unseen(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")
    assert (await ask(server, tools=TOOLS)).tool_calls
    monkeypatch.setenv("OPENAI_API_KEY", "sk-\u201cquoted\u201d")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY") as caught:
        await ask(server)
    assert "quoted" not in str(caught.value)


async def test_the_key_does_not_follow_a_redirect(server: ChatServer) -> None:
    server.script({"status": 307, "text": "", "headers": {"Location": f"{server.url}/elsewhere"}})
    with pytest.raises(ConfigError, match="307"):
        await ask(server)
    assert len(server.bodies) == 1
