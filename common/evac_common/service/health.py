"""`/livez`, `/readyz` and `/metrics` on loopback, for services that serve no other HTTP.

`/readyz` answers 503 with the reasons, one a line, while a service cannot do its work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

NotReady = Callable[[], list[str]]

_REQUEST_BYTES_MAX = 8192
_REQUEST_TIME_S = 5.0


def answer(path: str, not_ready: NotReady, registry: CollectorRegistry) -> tuple[int, str, bytes]:
    """Status, content type and body for a GET of `path`."""
    match path:
        case "/livez":
            return 200, "text/plain", b"ok\n"
        case "/readyz":
            reasons = not_ready()
            return (
                (503, "text/plain", "\n".join([*reasons, ""]).encode())
                if reasons
                else (200, "text/plain", b"ok\n")
            )
        case "/metrics":
            return 200, CONTENT_TYPE_LATEST, generate_latest(registry)
        case _:
            return 404, "text/plain", b"not found: /livez, /readyz and /metrics are here\n"


async def serve_health(
    port: int, not_ready: NotReady, *, registry: CollectorRegistry = REGISTRY
) -> None:
    """Serve until cancelled. Port 0 serves nothing and waits."""
    if port == 0:
        await asyncio.Event().wait()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_TIME_S):
                head = await reader.readuntil(b"\r\n\r\n")
                words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
                path = words[1].split("?", 1)[0] if len(words) == 3 else ""
                status, kind, body = (
                    answer(path, not_ready, registry)
                    if words[0] in {"GET", "HEAD"}
                    else (405, "text/plain", b"GET only\n")
                )
                writer.write(
                    f"HTTP/1.1 {status} \r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                    "Connection: close\r\n\r\n".encode()
                    + (b"" if words[0] == "HEAD" else body)
                )
                await writer.drain()
        except (
            TimeoutError,
            asyncio.IncompleteReadError,
            asyncio.LimitOverrunError,
            ConnectionError,
        ):
            pass  # the asker went away or did not speak HTTP: nothing to tell anybody
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", port, limit=_REQUEST_BYTES_MAX)
    async with server:
        await server.serve_forever()
