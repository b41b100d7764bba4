"""A bound on the bytes that are held at once."""

from __future__ import annotations

import asyncio


class Memory:
    """Bytes taken, and waiting until there is room for more. Used in one event loop."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._freed = asyncio.Event()

    @property
    def is_full(self) -> bool:
        """Whether half is taken: nothing new is begun, while what has begun finds room to end."""
        return self._num_bytes > self._max_bytes // 2

    def has_room(self, num_bytes: int) -> bool:
        """Whether so many can be taken now. One that is larger than all the room comes alone."""
        return not self._num_bytes or self._num_bytes + num_bytes <= self._max_bytes

    async def room(self, num_bytes: int) -> None:
        """Wait until so many can be taken."""
        while not self.has_room(num_bytes):
            self._freed.clear()
            await self._freed.wait()

    def take(self, num_bytes: int) -> None:
        """Take so many; a negative number gives back."""
        self._num_bytes += num_bytes
        if num_bytes < 0:
            self._freed.set()
