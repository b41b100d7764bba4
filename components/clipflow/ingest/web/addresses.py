"""Which addresses may be asked, and a resolver that gives no others.

The connection is made to the very address that was checked, so a name that changes its answer between a
check and its use (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from aiohttp.abc import AbstractResolver, ResolveResult

Lookup = Callable[[str], Sequence[str]]
"""The addresses of a name. Raises socket.gaierror."""

GLOBAL_UNICAST = ip_network("2000::/3")
REFUSED = [
    ip_network(net)
    for net in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2002::/16",  # 6to4: an IPv4 address in disguise
        "192.0.0.0/24",  # protocol assignments, and metadata of Oracle's cloud
        "192.88.99.0/24",  # relays of 6to4
        "168.63.129.16/32",  # Azure's host, a public address that is none
    )
]
NUM_THREADS = 64
"""Names looked up at once: each waits for some server, and dead names wait longest."""
TTL_S = 60.0
"""How long an answer is believed, a failure as well."""
MAX_NAMES = 100_000
"""Names remembered."""


class PrivateAddressError(OSError):
    """An address that is not on the public internet."""


def is_allowed(address: str, *, allow_loopback: bool) -> bool:
    """Whether an address is on the public internet, or on loopback if that is allowed.

    Raises ValueError if the text is not an address.
    """
    ip = ip_address(address.partition("%")[0])
    if ip.is_loopback:
        return allow_loopback
    if ip.is_multicast or ip.is_reserved or not ip.is_global:
        return False
    # Of IPv6 this leaves out embedded IPv4 (mapped, NAT64) as well as link-local and unique local.
    return (ip.version == 4 or ip in GLOBAL_UNICAST) and not any(ip in net for net in REFUSED)


def is_disguised(host: str) -> bool:
    """Whether a host is an IPv4 address in a form that only sockets read: decimal, octal, hex, short."""
    try:
        return socket.inet_ntoa(socket.inet_aton(host)) != host
    except (OSError, UnicodeError):
        return False


def system_lookup(name: str) -> list[str]:
    """What the machine's resolver says."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


@dataclass(frozen=True, slots=True)
class _Answer:
    """Addresses of a name, or why there are none."""

    addresses: Sequence[str]
    error: OSError | None
    until_s: float


class Resolver(AbstractResolver):
    """Looks names up in threads of its own, remembers the answers, and refuses what isn't public."""

    def __init__(self, lookup: Lookup, *, allow_loopback: bool) -> None:
        self._lookup, self._allow_loopback = lookup, allow_loopback
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="names")
        self._answers: dict[str, asyncio.Future[_Answer]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Public addresses only. Raises PrivateAddressError if any other is among them, socket.gaierror."""
        answer = await self._answer(host)
        if answer.error is not None:
            raise type(answer.error)(*answer.error.args)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in answer.addresses
        ]

    async def close(self) -> None:
        """Forget names that wait for a thread; those that have one end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _answer(self, host: str) -> _Answer:
        known = self._answers.get(host)
        if known is None or (known.done() and known.result().until_s < time.monotonic()):
            if len(self._answers) >= MAX_NAMES:
                self._answers.clear()
            loop = asyncio.get_running_loop()
            known = self._answers[host] = loop.run_in_executor(self._threads, self._ask, host)
        # Several may wait for the same answer: one that gives up doesn't take it from the others.
        return await asyncio.shield(known)

    def _ask(self, host: str) -> _Answer:
        addresses: Sequence[str] = ()
        error: OSError | None = None
        try:
            addresses = self._lookup(host)
            for address in addresses:
                if not is_allowed(address, allow_loopback=self._allow_loopback):
                    raise PrivateAddressError(f"{host} is {address}")
        except OSError as reason:
            error = reason
        except ValueError as reason:  # no name that a resolver understands
            error = socket.gaierror(socket.EAI_NONAME, str(reason))
        return _Answer(addresses, error, time.monotonic() + TTL_S)
