"""Whose turn it is: things to do at many hosts, so many at once at each, each host after the other."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Host(Generic[T]):
    name: str
    waiting: deque[T] = field(default_factory=deque)
    num_active: int = 0
    is_ready: bool = False
    """Whether it stands in the line of hosts that may be asked."""


class Hosts(Generic[T]):
    """What waits, by host. A busy host's things wait; those of others pass them."""

    def __init__(self, per_host: int) -> None:
        self._per_host = per_host
        self._hosts: dict[str, _Host[T]] = {}
        self._ready: deque[_Host[T]] = deque()

    def __bool__(self) -> bool:
        """Whether anything may be done now."""
        return bool(self._ready)

    def add(self, name: str, thing: T) -> None:
        """Something to do at a host."""
        host = self._hosts.setdefault(name, _Host(name))
        host.waiting.append(thing)
        self._line_up(host)

    def take(self) -> tuple[str, T]:
        """What to do next, and the host; `done` is to be called after. Something must be ready."""
        host = self._ready.popleft()
        host.is_ready = False
        host.num_active += 1
        thing = host.waiting.popleft()
        self._line_up(host)
        return host.name, thing

    def done(self, name: str) -> None:
        """One thing is done at a host."""
        host = self._hosts[name]
        host.num_active -= 1
        self._line_up(host)
        if not host.num_active and not host.waiting:
            del self._hosts[name]

    def _line_up(self, host: _Host[T]) -> None:
        if host.waiting and not host.is_ready and host.num_active < self._per_host:
            host.is_ready = True
            self._ready.append(host)
