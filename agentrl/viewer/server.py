"""The page on an address that no other machine reaches. Owns the place of the index, the token and the socket."""

from __future__ import annotations

import secrets
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from agentrl.serving.listener import answer_requests, listening
from agentrl.viewer.app import make_app
from agentrl.viewer.forks.playing import ForkOptions, Forks
from agentrl.viewer.index import Index
from agentrl.viewer.sources import check_places
from agentrl.viewer.watch import Watcher

_HOST = "127.0.0.1"
_GRACE_S = 1  # a stream of events never ends by itself
_TOKEN_BYTES = 24


def view(
    places: Sequence[str | Path] = (".",),
    *,
    port: int = 0,
    forks: ForkOptions | None = None,
    on_ready: Callable[[str], object] = lambda url: None,
    browser: Callable[[str], object] | None = None,
) -> None:
    """Show the runs under some folders in a page, until Ctrl-C or SIGTERM.

    Nothing is written into them: the index stands in a temporary folder, which is removed at the end.

    Args:
        places: folders of runs, run folders, or stores.
        port: 0 takes a free one.
        forks: what episodes that are played on may use.
        on_ready: called with the address, token included, when requests are accepted.
        browser: opens an address that works for one visit, such as `webbrowser.open`.
    Raises: ConfigError if a place does not exist, or the port is taken.
    """
    paths = [Path(place) for place in places]
    check_places(paths)
    token, once = secrets.token_urlsafe(_TOKEN_BYTES), secrets.token_urlsafe(_TOKEN_BYTES)
    with listening(_HOST, port) as listener, tempfile.TemporaryDirectory(prefix="agentrl-view-") as folder:
        at = listener.getsockname()[1]

        def ready() -> None:
            on_ready(f"http://{_HOST}:{at}/?token={token}")
            if browser is not None:
                # Some browsers return only when they are closed.
                address = f"http://{_HOST}:{at}/?token={once}"
                threading.Thread(target=browser, args=(address,), daemon=True).start()

        with (
            closing(Index(Path(folder) / "index.sqlite")) as index,
            Watcher(index, paths) as watcher,
            Forks(forks or ForkOptions()) as playing,
        ):
            app = make_app(watcher, playing, token=token, port=at, once=once)
            answer_requests(app, listener, on_ready=ready, grace_s=_GRACE_S)
