"""What is asked of devices over a broker, and what may come back.

Belongs here: orders, the kinds of answers, and a batch of questions that wait for theirs. Does
not: sending or receiving (`mqtt_session`), what an answer means (`mqtt`).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Payload = bytes | bytearray


@dataclass(frozen=True, slots=True)
class Order:
    """Something a device must acknowledge: a command (`cmd`) or a `release`."""

    device_id: str
    kind: str
    order_id: str
    payload: str
    expiry_s: int  # from when on the broker no longer delivers it (MQTT 5)

    @property
    def key(self) -> tuple[str, str]:
        """Return what its ack is known by."""
        return self.device_id, self.order_id


@dataclass(frozen=True, slots=True)
class NotTaken:
    """It did not get past the broker; `final` where the same would happen again."""

    reason: str
    sent: bool = False
    final: bool = False


@dataclass(frozen=True, slots=True)
class Silence:
    """It may have arrived, or not."""

    reason: str


Key = TypeVar("Key")
Answer = TypeVar("Answer")


class Batch(Generic[Key, Answer]):
    """Questions put together, and the answers to them; `tell` is told each as it comes."""

    def __init__(self, keys: Iterable[Key], tell: Callable[[Key, Answer], None]) -> None:
        self.open = set(keys)
        self._tell = tell
        self._over = asyncio.Event()

    def settle(self, key: Key, answer: Answer) -> bool:
        """Take the first answer to a question; tell whether it was the first."""
        if key not in self.open:
            return False
        self.open.remove(key)
        self._tell(key, answer)
        if not self.open:
            self._over.set()
        return True

    def end(self) -> None:
        """No more answers will come."""
        self._over.set()

    async def wait(self, seconds: float) -> None:
        """Wait until all is answered, or for so long."""
        if self.open:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._over.wait()
