"""Bad weather between a robot and the network, by seed: a Transport around another that loses, repeats, delays,
reorders and spoils what passes, and that a test can cut or speak through.

Observations pass `up`, chunks and events pass `down`. Questions are lost or not, as a whole.
"""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from network.transport import Declaration, Kind, Publisher, Query, Sample, Transport

Deliver = Callable[[bytes, bytes], None]  # (body, attachment)


@dataclass(frozen=True)
class Weather:
    """How one way treats messages; shares from 0 to 1."""

    lose: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0  # one byte of body or header is another
    delay_s: tuple[float, float] = (0.0, 0.0)  # drawn for each message: different draws reorder


FINE = Weather()


class Way:
    """One direction. Messages without a delay pass on the caller's thread.

    Headers are flipped only where `flips` says so: on the way up they carry the session's tag, and what has the right
    tag and a wrong number is no bad network but a robot that lies.
    """

    def __init__(self, rng: random.Random, flips: bool) -> None:
        self.weather = FINE
        self.change: Callable[[bytes, bytes], tuple[bytes, bytes]] | None = None  # what becomes of each message
        self.passed = self.lost = 0
        self._rng, self._flips = rng, flips
        self._drop_next = 0
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._later: list[tuple[float, int, Deliver, bytes, bytes]] = []
        self._order = count()
        self._closed = False
        self._thread = threading.Thread(target=self._deliver, name="weather", daemon=True)
        self._thread.start()

    def drop_next(self, number: int = 1) -> None:
        """Lose the next messages, whatever the weather."""
        with self._lock:
            self._drop_next = number

    def send(self, body: bytes, attachment: bytes, to: Deliver) -> None:
        """A message, subject to the weather."""
        if self.change is not None:
            body, attachment = self.change(body, attachment)
        with self._lock:
            copies = self._copies(body, attachment)
            self.lost += not copies
            self.passed += bool(copies)
        for delay_s, *message in copies:
            if delay_s <= 0:
                to(*message)
            else:
                with self._changed:
                    heapq.heappush(self._later, (time.monotonic() + delay_s, next(self._order), to, *message))
                    self._changed.notify_all()

    def _copies(self, body: bytes, attachment: bytes) -> list[tuple[float, bytes, bytes]]:
        weather, draw = self.weather, self._rng.random
        if self._drop_next:
            self._drop_next -= 1
            return []
        if draw() < weather.lose:
            return []
        copies = []
        for _ in range(1 + (draw() < weather.duplicate)):
            message = self._spoilt(body, attachment) if draw() < weather.corrupt else (body, attachment)
            copies.append((self._rng.uniform(*weather.delay_s), *message))
        return copies

    def _spoilt(self, body: bytes, attachment: bytes) -> tuple[bytes, bytes]:
        kind = self._rng.randrange(4)
        if kind == 0:
            return body[: self._rng.randrange(len(body) + 1)], attachment
        if kind == 1 and self._flips:
            return body, self._flipped(attachment)
        if kind == 2:
            return self._rng.randbytes(self._rng.randrange(200)), attachment
        return body, attachment[: self._rng.randrange(len(attachment) + 1)]

    def _flipped(self, data: bytes) -> bytes:
        if not data:
            return data
        changed = bytearray(data)
        changed[self._rng.randrange(len(changed))] ^= 1 << self._rng.randrange(8)
        return bytes(changed)

    def close(self) -> None:
        """What is still under way is lost."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _deliver(self) -> None:
        while True:
            with self._changed:
                while not self._closed and not (self._later and self._later[0][0] <= time.monotonic()):
                    self._changed.wait(self._later[0][0] - time.monotonic() if self._later else None)
                if self._closed:
                    return
                _, _, to, body, attachment = heapq.heappop(self._later)
            to(body, attachment)


class Proxy:
    """See Transport, and above."""

    def __init__(self, inner: Transport, seed: int = 0) -> None:
        self._inner = inner
        self._rng = random.Random(seed)
        self.up, self.down = (Way(random.Random(self._rng.random()), flips) for flips in (False, True))
        self.lose_questions = 0.0
        self.questions: list[str] = []  # keys that were asked
        self.heard: list[tuple[str, bytes, bytes]] = []  # (key, body, attachment) that came in, before the weather
        self.sent: list[tuple[str, bytes, bytes]] = []
        self.sent_s: list[float] = []  # when; monotonic
        self._ears: list[tuple[str, Callable[[Sample], None]]] = []
        self._watchers: list[tuple[dict[str, bool], Callable[[str, bool], None]]] = []
        self._is_cut = False
        self._ended = threading.Event()

    # --- what tests do ---------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """The cable is out: nothing passes, and whoever watches is told that all are gone."""
        self._is_cut = True
        self._tell_watchers(False)

    def mend(self) -> None:
        """The cable is in again."""
        self._is_cut = False
        self._tell_watchers(True)

    def say(self, key: str, body: bytes, attachment: bytes) -> None:
        """Let the robot hear a message that nobody sent."""
        for at, ear in self._ears:
            if at == key:
                ear(Sample(key, attachment, len(body), lambda: body))

    def _tell_watchers(self, back: bool) -> None:
        for live, on_change in list(self._watchers):
            for key in [key for key, alive in live.items() if alive]:
                on_change(key, back)

    # --- Transport -------------------------------------------------------------------------------------------------

    def publisher(self, key: str, kind: Kind) -> Publisher:
        """See Transport."""
        return _Publisher(self, key, self._inner.publisher(key, kind))

    def subscribe(self, key_expr: str, on_sample: Callable[[Sample], None]) -> Declaration:
        """See Transport."""

        def take(sample: Sample) -> None:
            body, key = sample.body(), sample.key
            self.heard.append((key, body, sample.attachment))
            if not self._is_cut:
                self.down.send(body, sample.attachment, lambda b, a: on_sample(Sample(key, a, len(b), lambda: b)))

        self._ears.append((key_expr, on_sample))
        return self._inner.subscribe(key_expr, take)

    def queryable(self, key_expr: str, on_query: Callable[[Query], None]) -> Declaration:
        """See Transport."""
        return self._inner.queryable(key_expr, on_query)

    def query(self, key: str, body: bytes, timeout_s: float) -> list[bytes]:
        """See Transport."""
        self.questions.append(key)
        if self._is_cut:
            return []
        if self._rng.random() < self.lose_questions:
            self._ended.wait(timeout_s)
            return []
        return self._inner.query(key, body, timeout_s)

    def token(self, key: str) -> Declaration:
        """See Transport."""
        return self._inner.token(key)

    def watch(self, key_expr: str, on_change: Callable[[str, bool], None]) -> Declaration:
        """See Transport."""
        live: dict[str, bool] = {}

        def changed(key: str, alive: bool) -> None:
            live[key] = alive
            if not self._is_cut:
                on_change(key, alive)

        self._watchers.append((live, on_change))
        return self._inner.watch(key_expr, changed)

    def alive(self, key_expr: str, timeout_s: float) -> list[str]:
        """See Transport."""
        return [] if self._is_cut else self._inner.alive(key_expr, timeout_s)

    def connected(self) -> bool:
        """See Transport."""
        return not self._is_cut and self._inner.connected()

    def drops(self) -> dict[str, int]:
        """See Transport."""
        return self._inner.drops()

    def close(self) -> None:
        """See Transport."""
        self._ended.set()
        self.up.close()
        self.down.close()
        self._inner.close()

    def pass_up(self, key: str, body: bytes, attachment: bytes, to: Deliver) -> None:
        """An observation on its way."""
        self.sent_s.append(time.monotonic())
        self.sent.append((key, body, attachment))
        if not self._is_cut:
            self.up.send(body, attachment, to)


class _Publisher:
    """See Publisher."""

    def __init__(self, proxy: Proxy, key: str, inner: Publisher) -> None:
        self._proxy, self._key, self._inner = proxy, key, inner
        self._ended = False

    def put(self, body: bytes, attachment: bytes) -> None:
        """See Publisher."""
        self._proxy.pass_up(self._key, body, attachment, self._deliver)

    def _deliver(self, body: bytes, attachment: bytes) -> None:
        if not self._ended:  # what was under way when it ended is lost
            self._inner.put(body, attachment)

    def undeclare(self) -> None:
        """See Publisher."""
        self._ended = True
        self._inner.undeclare()
