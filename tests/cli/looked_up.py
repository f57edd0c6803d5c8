"""What a process refuses in tests without network. `SITE` is a `sitecustomize` module: children load it as well."""

SITE = """
import os
import sys

NAMES = {"socket.connect": 1, "socket.sendto": 1, "socket.sendmsg": 1, "socket.getaddrinfo": 0,
         "socket.gethostbyname": 0, "socket.gethostbyaddr": 0, "socket.getnameinfo": 0}
HERE = ("", "localhost", "127.0.0.1", "::1", "0.0.0.0", "None")


def refuse(event, given):
    if event not in NAMES:
        return
    place = given[NAMES[event]]
    if place is None or NAMES[event] == 1 and not isinstance(place, tuple):
        return  # a connected socket, or one of this machine's file system
    host = place[0] if isinstance(place, tuple) else place
    host = host.decode(errors="replace") if isinstance(host, bytes) else str(host)
    if host in HERE or host.startswith("127."):
        return
    with open(os.environ["LOOKED_UP"], "a") as log:
        log.write(f"{event} {host} {sys.argv}\\n")
    raise OSError(f"there is no network here: {event} {host}")


sys.addaudithook(refuse)
"""
