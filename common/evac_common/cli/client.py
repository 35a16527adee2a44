"""The api over HTTP. What it refuses is raised as its problem document."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Final, Self

import httpx2

from evac_common.cli.config import Access
from evac_common.cli.failures import ApiAway, NoAccess, Refused, WrongUse

LIMIT_S: Final = 30.0
PAGE: Final = 1000


class Client:
    """One connection pool to one api. `transport` replaces the network (tests, the simulator)."""

    def __init__(self, access: Access, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self._url = access.url
        try:
            verify = (
                ssl.create_default_context(cafile=str(access.ca_file)) if access.ca_file else True
            )
            self._http = httpx2.AsyncClient(
                base_url=access.url,
                headers={"Authorization": f"Bearer {access.token}", "User-Agent": "evac"},
                timeout=LIMIT_S,
                transport=transport,
                verify=verify,
                trust_env=False,  # a proxy on the way to the cluster is one more thing to fail
            )
        except (OSError, ValueError, httpx2.InvalidURL) as error:
            raise WrongUse(f"{access.ca_file or access.url}: {error}") from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def get(self, path: str, *, limit_s: float = LIMIT_S, **query: Any) -> Any:
        given = {key: value for key, value in query.items() if value is not None}
        return await self._call("GET", path, params=given, timeout=limit_s)

    async def all(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """Every item of a list, page by page."""
        items: list[dict[str, Any]] = []
        after = ""
        while True:
            page = await self.get(path, after=after, limit=PAGE, **query)
            items += page["items"]
            after = page["next"]
            if not after:
                return items

    async def post(self, path: str, body: Any = None) -> Any:
        return await self._call("POST", path, json=body if body is not None else {})

    async def delete(self, path: str) -> Any:
        return await self._call("DELETE", path)

    async def events(
        self, after: int | None, query: Mapping[str, Any]
    ) -> AsyncIterator[dict[str, Any]]:
        """The event stream, until the api ends it. Raises ApiAway when the connection is lost."""
        headers = {"Accept": "text/event-stream"}
        if after is not None:
            headers["Last-Event-ID"] = str(after)
        given = {key: value for key, value in query.items() if value}
        timeout = httpx2.Timeout(LIMIT_S, read=None)
        try:
            async with self._http.stream(
                "GET", "/v1/events", params=given, headers=headers, timeout=timeout
            ) as response:
                if response.status_code != 200:
                    await response.aread()
                    self._check(response)
                async for line in response.aiter_lines():
                    if line.startswith("data:"):
                        yield json.loads(line.removeprefix("data:"))
        except httpx2.TransportError as error:
            raise self._away(error) from error

    async def _call(self, method: str, path: str, **options: Any) -> Any:
        try:
            response = await self._http.request(method, path, **options)
        except httpx2.TransportError as error:
            raise self._away(error) from error
        except httpx2.InvalidURL as error:
            raise WrongUse(f"{self._url}: {error}") from error
        self._check(response)
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError as error:
            raise ApiAway(f"what answers at {self._url} is not the api of evac") from error

    def _check(self, response: httpx2.Response) -> None:
        if response.status_code < 300:
            return
        try:
            problem = response.json()
        except ValueError:
            problem = None
        if not isinstance(problem, dict) or "detail" not in problem:
            raise ApiAway(
                f"what answers at {self._url} is not the api of evac: {response.status_code}"
            )
        if response.status_code in (401, 403):
            raise NoAccess(f"the api did not accept the token: {problem['detail']}")
        if response.status_code in (502, 503, 504):
            raise ApiAway(f"the api is not ready: {problem['detail']}")
        raise Refused(problem)

    def _away(self, error: httpx2.TransportError) -> ApiAway:
        why = str(error) or type(error).__name__
        return ApiAway(f"the api at {self._url} cannot be reached: {why}")
