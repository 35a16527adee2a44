"""One way to call the client library: a time limit, and errors in evac's words.

Nothing outside this package sees an exception of aio-pika.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import (
    CONNECTION_EXCEPTIONS,
    AuthenticationError,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    DeliveryError,
    ProbableAuthenticationError,
    PublishError,
)
from aiormq.exceptions import ChannelAccessRefused, ChannelLockedResource, ConnectionNotAllowed

from evac_common.errors import BusRefused, BusUnavailable, EvacError, QueueFull, Unroutable

_CLOSE_LIMIT_S: Final = 2.0
_REFUSALS: Final = (
    ChannelAccessRefused,
    ChannelPreconditionFailed,
    ChannelLockedResource,
    AuthenticationError,
    ProbableAuthenticationError,
    ConnectionNotAllowed,
)


@asynccontextmanager
async def within(limit_s: float, what: str) -> AsyncIterator[None]:
    """Limit a call to the broker. Raises BusUnavailable, BusRefused, Unroutable or QueueFull.

    After BusUnavailable the outcome is unknown: a publish that timed out may still be delivered.
    """
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError as error:
        raise BusUnavailable(f"{what}: no answer in {limit_s:g} s") from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # The library cancels what was in flight when the connection died; nobody cancelled us.
        raise BusUnavailable(f"{what}: the connection was lost meanwhile") from error
    except CONNECTION_EXCEPTIONS as error:
        raise in_our_words(error, what) from error


def in_our_words(error: BaseException, what: str) -> EvacError:
    """The error of evac's that says the same."""
    text = f"{what}: {type(error).__name__} {error}".rstrip()
    match error:
        case PublishError():
            return Unroutable(what)
        case DeliveryError():
            return QueueFull(what)
        case ChannelNotFoundEntity():
            return Unroutable(text)
        case _ if isinstance(error, _REFUSALS):
            return BusRefused(text)
        case _:
            return BusUnavailable(text)


async def close_quietly(closable: AbstractConnection | AbstractChannel) -> None:
    """Close something that may be dead already; after the limit the library goes on by itself."""
    try:
        async with within(_CLOSE_LIMIT_S, "close"):
            await closable.close()
    except EvacError:
        return  # it was dead: nothing to be told
