"""Who is blamed for an exception of an author's code."""

from __future__ import annotations

import asyncio
import errno
import http.client
import os
import resource
import socket
import ssl
import urllib.error

import httpx
import pytest

from agentrl.env.blame import culprit, fault_of, host_gives_it, is_addressed, is_authors
from agentrl.errors import EnvFault

REQUEST = httpx.Request("GET", "https://api.example/x")


def status(code: int) -> httpx.HTTPStatusError:
    return httpx.HTTPStatusError("x", request=REQUEST, response=httpx.Response(code, request=REQUEST))


def foreign(module: str, *names: str, **attributes: object) -> Exception:
    """An exception as a client that is not installed raises it."""
    kind: type[Exception] = Exception
    for name in names:
        kind = type(name, (kind,), {"__module__": module})
    error = kind("x")
    vars(error).update(attributes)
    return error


def raised_from(error: Exception, *, explicitly: bool) -> Exception:
    try:
        try:
            raise error
        except Exception as cause:
            if explicitly:
                raise RuntimeError("the API failed") from cause
            raise RuntimeError("the API failed")  # noqa: B904
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize(
    ("error", "who"),
    [
        (KeyError("drawer"), "author"),
        (ValueError("x"), "author"),
        (RecursionError(), "author"),
        (SystemExit(0), "author"),
        (FileNotFoundError(errno.ENOENT, "no file"), "author"),
        (OSError("without a number"), "author"),
        (urllib.error.URLError("unknown url type"), "author"),
        (httpx.LocalProtocolError("x"), "author"),
        (httpx.UnsupportedProtocol("x"), "author"),
        (httpx.InvalidURL("x"), "author"),
        (status(404), "author"),
        (foreign("requests.exceptions", "RequestException", "InvalidURL"), "author"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "network"),
        (ConnectionResetError(), "network"),
        (BrokenPipeError(), "network"),
        (TimeoutError(), "network"),
        (socket.gaierror(-2, "no such name"), "network"),
        (ssl.SSLError("x"), "network"),
        (OSError(errno.EHOSTUNREACH, "x"), "network"),
        (OSError(errno.ENETUNREACH, "x"), "network"),
        (urllib.error.URLError(ConnectionRefusedError()), "network"),
        (http.client.IncompleteRead(b""), "network"),
        (httpx.ConnectError("x"), "network"),
        (httpx.ReadTimeout("x"), "network"),
        (httpx.RemoteProtocolError("x"), "network"),
        (foreign("requests.exceptions", "RequestException", "ConnectionError", "SSLError"), "network"),
        (foreign("urllib3.exceptions", "HTTPError", "MaxRetryError"), "network"),
        (foreign("aiohttp.client_exceptions", "ClientConnectionError", "ServerDisconnectedError"), "network"),
        (foreign("openai", "APIConnectionError", "APITimeoutError"), "network"),
        (status(500), "server"),
        (status(429), "server"),
        (urllib.error.HTTPError("u", 503, "m", http.client.HTTPMessage(), None), "server"),
        (foreign("aiohttp.client_exceptions", "ClientResponseError", status=502), "server"),
        (foreign("aiohttp.client_exceptions", "ClientResponseError", status=400), "author"),
        (MemoryError(), "host"),
        (OSError(errno.ENOSPC, "no space"), "host"),
        (OSError(errno.EMFILE, "too many files"), "host"),
        (RuntimeError("can't start new thread"), "host"),
        (raised_from(ConnectionRefusedError(), explicitly=True), "network"),
        (raised_from(ConnectionRefusedError(), explicitly=False), "network"),
        (raised_from(KeyError(), explicitly=True), "author"),
        (ExceptionGroup("x", [ConnectionRefusedError()]), "network"),
        (ExceptionGroup("x", [ConnectionRefusedError(), KeyError()]), "author"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_who_failed(error, who):
    assert culprit(error) == who
    assert fault_of("score", error).at == who


def test_a_fault_says_what_was_running_and_what_it_raised():
    assert str(fault_of("tool 'price'", KeyError("tea"))) == "tool 'price' raised KeyError: 'tea'"
    given = EnvFault("the sandbox is gone", who="sandbox")
    assert fault_of("score", given) is given
    assert culprit(raised_from(given, explicitly=True)) == "sandbox"


def test_any_text_of_an_exception_can_be_stored():
    class Odd(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    assert str(fault_of("score", Odd())) == "score raised Odd: (it has no text)"
    assert "\ud800" not in str(fault_of("score", ValueError("a\ud800")))
    assert len(str(fault_of("score", ValueError("x" * 10**6)))) < 3000


async def test_what_stops_the_program_or_the_task_is_no_fault():
    assert not is_authors(GeneratorExit())
    assert is_authors(SystemExit())
    assert is_authors(KeyError())
    # Nobody asked this task to stop, so what it awaited had been cancelled.
    assert is_authors(asyncio.CancelledError())
    assert str(fault_of("score", asyncio.CancelledError())) == "score awaited something that had been cancelled"

    async def asked() -> bool:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            return is_authors(error)
        return True

    task = asyncio.create_task(asked())
    await asyncio.sleep(0)
    task.cancel()
    assert await task is False


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "no memory")])
def test_what_this_machine_gives_now_is_asked_of_it(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = fault_of("tool 'x'", error)
    fault.__cause__ = error
    assert host_gives_it(fault)
    monkeypatch.setattr("agentrl.env.blame._SPARE_BYTES", 2**62)
    assert not host_gives_it(fault)


def test_a_machine_without_descriptors_is_not_well() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lost = OSError(errno.EMFILE, "too many")
    assert host_gives_it(lost)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 4, hard))
    try:
        assert not host_gives_it(lost)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_thread_can_be_started_and_a_disk_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    assert host_gives_it(RuntimeError("can't start new thread"))
    assert not host_gives_it(OSError(errno.EDQUOT, "of whom?"))
    monkeypatch.setattr("agentrl.env.blame._SPARE_BYTES", 1)
    monkeypatch.setattr("agentrl.env.blame._SPARE_FILES", 1)
    assert host_gives_it(OSError(errno.ENOSPC, "full"))
    monkeypatch.setattr("agentrl.env.blame._SPARE_FILES", 2**62)
    assert not host_gives_it(OSError(errno.ENOSPC, "full"))
    assert not host_gives_it(ValueError("no"))


class _Odd(ConnectionError):
    """Whose attributes fail, as those of an author's exception may."""

    @property
    def request(self) -> object:
        raise ValueError("odd")

    @property
    def host(self) -> list[str]:
        return ["books.example"]


@pytest.mark.parametrize("error", [httpx.ConnectError("it names no request"), _Odd("odd")])
def test_an_exception_whose_attributes_fail_names_no_address(error: Exception) -> None:
    assert not is_addressed(error, {"url": "https://books.example"})


def test_an_exception_of_httpx_names_the_address_that_it_was_for() -> None:
    error = httpx.ConnectError("refused", request=httpx.Request("GET", "https://Books.example/1"))
    assert is_addressed(error, {"deep": [{"url": "see https://books.example/1"}]})
    assert not is_addressed(error, {"url": "https://other.example"})
