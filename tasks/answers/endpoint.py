"""Servers that can be asked, and which of them is asked next: the least busy one that is up."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Sequence

from tasks.answers.client import CallError, ChatClient
from tasks.answers.dialect import dialect_of
from tasks.answers.question import Slots
from tasks.answers.server_process import ServerProcess
from tasks.errors import AnswererError
from tasks.settings import VlmSettings

log = logging.getLogger(__name__)

COOL_OFF_S = 2.0  # a server that lost a connection is left out so long; doubles while that goes on
COOL_OFF_S_MAX = 60.0
TIMEOUTS_MAX = 3  # so many unanswered requests in a row count as a lost connection
DEATH_S = 1.0  # how long after a lost connection a server of ours is watched for its end


class Endpoint:
    """One server. What changes is guarded by its router."""

    def __init__(self, settings: VlmSettings, name: str = "", state: str = "up") -> None:
        self.settings = settings  # with this server's own api_base
        self.client = ChatClient(settings)
        self.name = name or self.client.address
        self.dialect = dialect_of(settings.api_base, settings.model_id)
        self.state = state  # starting, up, down (for good)
        self.process: ServerProcess | None = None  # when it is ours
        self.busy = 0
        self.used = 0  # when it was last chosen, as a running number
        self.out_until = 0.0  # monotonic seconds
        self.lost_in_row = 0  # cool-offs without a reply between them
        self.timeouts_in_row = 0

    @property
    def died(self) -> bool:
        """Its process has ended, which whoever keeps it may not have noticed yet."""
        return self.process is not None and self.process.ended.is_set()

    def is_coming(self) -> bool:
        """Not to be asked now, but soon or at least perhaps."""
        return self.state == "starting" or (self.state == "up" and self.died)

    def takes(self, now: float) -> bool:
        """Whether it may be asked. After a cool-off a single question tries it first."""
        if self.state != "up" or self.died or now < self.out_until:
            return False
        return self.lost_in_row == 0 or self.busy == 0


class Router:
    """Chooses a server for each request. Thread-safe.

    All servers together share the `client_concurrency` of the process, which the pool of requests keeps; so with two
    servers each has about half of the requests. One that loses connections is left out for a while. A server that
    stands alone is never left out: its questions are tried again, as their retries allow.
    """

    def __init__(self, requests_max: int) -> None:
        self._requests_max = requests_max
        self._lock = threading.Lock()
        self._endpoints: list[Endpoint] = []
        self._numbers = itertools.count(1)
        self._last_words: AnswererError | None = None

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """All servers, in the order in which they were added."""
        with self._lock:
            return tuple(self._endpoints)

    def add(self, endpoints: Sequence[Endpoint]) -> None:
        """Let servers be chosen."""
        with self._lock:
            self._endpoints.extend(endpoints)

    def take(self, avoid: Endpoint | None = None, only: Endpoint | None = None) -> Endpoint | None:
        """The least busy server: `only` that one if it is up, `avoid` that one if there is another.

        None: nobody can be asked now, but a server is being started. Raises AnswererError when none is left.
        Every server that is taken must be released.
        """
        now = time.monotonic()
        with self._lock:
            ready = [e for e in self._endpoints if e.takes(now)]
            chosen = min(ready, key=lambda e: (e is not only, e is avoid, e.busy, e.used), default=None)
            if chosen is None and any(e.is_coming() for e in self._endpoints):
                return None
            if chosen is None:  # all of them lost connections: the one that has rested longest
                chosen = min((e for e in self._endpoints if e.state == "up"), key=lambda e: e.out_until, default=None)
            if chosen is None:
                raise self._nobody()
            chosen.busy += 1
            chosen.used = next(self._numbers)
            return chosen

    def _nobody(self) -> AnswererError:
        if self._last_words is not None:
            return AnswererError(*self._last_words.args)
        return AnswererError("a server to ask", "none was found or started", "call preflight() before asking")

    def release(self, endpoint: Endpoint) -> None:
        """The request is over."""
        with self._lock:
            endpoint.busy -= 1

    def replied(self, endpoint: Endpoint) -> None:
        """It gave an HTTP answer of any kind."""
        with self._lock:
            if endpoint.lost_in_row:
                log.info("%s answers again", endpoint.name)
            endpoint.lost_in_row = endpoint.timeouts_in_row = 0
            endpoint.out_until = 0.0

    def failed(self, endpoint: Endpoint, error: CallError) -> bool:
        """It gave no HTTP answer. True when the question is better off elsewhere: at once, and without a retry."""
        if error.lost and endpoint.process is not None:
            endpoint.process.ended.wait(DEATH_S)
        with self._lock:
            endpoint.timeouts_in_row += not error.lost
            if error.lost or endpoint.timeouts_in_row >= TIMEOUTS_MAX:
                self._leave_out(endpoint, error)
            now = time.monotonic()
            others = [e for e in self._endpoints if e is not endpoint and e.takes(now)]
            return error.lost and bool(others or any(e.is_coming() for e in self._endpoints))

    def leave_out(self, endpoint: Endpoint, error: CallError) -> None:
        """Do not ask it for a while."""
        with self._lock:
            self._leave_out(endpoint, error)

    def _leave_out(self, endpoint: Endpoint, error: CallError) -> None:
        now = time.monotonic()
        if endpoint.died or now < endpoint.out_until:  # once, however many requests were in flight
            return
        cool_off_s = min(COOL_OFF_S_MAX, COOL_OFF_S * 2**endpoint.lost_in_row)
        endpoint.out_until = now + cool_off_s
        endpoint.lost_in_row += 1
        if len(self._endpoints) > 1:
            log.warning("%s: %s; left out for %.0f s", endpoint.name, error, cool_off_s)

    # ------------------------------------------------------------------ servers of ours

    def starting(self, endpoint: Endpoint) -> None:
        """It is loading: questions wait for it when there is no other."""
        with self._lock:
            endpoint.state = "starting"

    def up(self, endpoint: Endpoint, process: ServerProcess) -> None:
        """It answers."""
        with self._lock:
            endpoint.state, endpoint.process = "up", process
            endpoint.lost_in_row = endpoint.timeouts_in_row = 0
            endpoint.out_until = 0.0

    def down(self, endpoint: Endpoint, last_words: AnswererError) -> None:
        """It will not come back; the last server's last words end the run."""
        with self._lock:
            endpoint.state = "down"
            self._last_words = last_words

    # ------------------------------------------------------------------ all of them

    def slots(self) -> tuple[Slots, ...]:
        """State and use of each server; those that are up share the limit of requests."""
        now = time.monotonic()
        with self._lock:
            states = [_shown(e, now) for e in self._endpoints]
            up = states.count("up")
            share, more = divmod(self._requests_max, max(1, up))
            limits = iter([share + (i < more) for i in range(up)])
            return tuple(
                Slots(e.name, state, e.busy, next(limits) if state == "up" else 0)
                for e, state in zip(self._endpoints, states, strict=True)
            )

    def close(self) -> None:
        """Close all connections. Idempotent."""
        for endpoint in self.endpoints:
            endpoint.client.close()


def _shown(endpoint: Endpoint, now: float) -> str:
    if endpoint.is_coming():
        return "starting"
    return "down" if endpoint.state == "up" and now < endpoint.out_until else endpoint.state


def external(settings: VlmSettings) -> list[Endpoint]:
    """The servers of `vlm.api_base`: one, or several with commas between them."""
    bases = dict.fromkeys(b.strip().rstrip("/") for b in settings.api_base.split(",") if b.strip())
    return [Endpoint(at(settings, base)) for base in bases or [""]]


def at(settings: VlmSettings, api_base: str) -> VlmSettings:
    """The settings of one server: its clients and errors name it alone."""
    return settings.model_copy(update={"api_base": api_base})
