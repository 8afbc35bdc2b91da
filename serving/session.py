"""One robot at the daemon: who it is, what was agreed, its mailbox, and whether a request of it is under way."""

from __future__ import annotations

import logging
import secrets
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from network.errors import TransportError
from network.transport import Publisher
from serving.log_limit import LineLimit
from serving.mailbox import Deposit, Mailbox
from serving.policies.base import PolicySession, SessionInfo
from serving.wire import features
from serving.wire.header import TAG_BYTES
from serving.wire.messages import BOTH

log = logging.getLogger(__name__)
log.addFilter(LineLimit())

NO_EPISODE = -1  # so that the first observation always begins one


@dataclass(frozen=True)
class Agreement:
    """What both sides settled at open."""

    features: frozenset[str] = frozenset()
    schema_version: int = 1
    rtc: bool = False
    chunk_form: str = BOTH
    f16: bool = False
    task: str = ""
    fps: float = 0.0
    robot_type: str = ""
    action_names: tuple[str, ...] = ()

    def __contains__(self, feature: str) -> bool:
        return feature in self.features


@dataclass
class Session:
    """A robot's session. The pipeline and the control thread share it; `lock` guards what both change."""

    client: str
    agreed: Agreement
    policy: PolicySession
    publisher: Publisher
    opened_s: float
    session_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    resume_token: str = field(default_factory=lambda: secrets.token_hex(16))
    shown_token: str = ""  # by the open that made this session: its ack may have been lost
    tag: bytes = b""  # b"" where the client knows no tags
    info: SessionInfo | None = None  # what the policy was told of it
    mailbox: Mailbox = field(default_factory=Mailbox)
    lock: threading.Lock = field(default_factory=threading.Lock)
    last_seen_s: float = 0.0
    token_lost_s: float | None = None  # when its liveliness token went away
    epoch: int = -1  # newest handshake seen in a header; older observations are dropped
    episode: int = NO_EPISODE  # owned by whoever holds the turn
    reset_policy: bool = False  # an exclusive policy forgets before the next request
    notices: int = 0  # events on their way to the robot; guarded by the pipeline
    closed: bool = False
    _busy: bool = False
    _when_idle: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if features.TAG in self.agreed and not self.tag:
            self.tag = secrets.token_bytes(TAG_BYTES)
        self.last_seen_s = self.last_seen_s or self.opened_s

    def knows(self, token: str) -> bool:
        """Whether somebody who shows this token is the robot itself."""
        ours = filter(None, (self.resume_token, self.shown_token))
        return any(secrets.compare_digest(token.encode(), known.encode()) for known in ours)

    def deposit(self, deposit: Deposit) -> bool:
        """Leave an observation in the mailbox and mark the robot as seen; True when it replaced one."""
        self.last_seen_s = deposit.received_s
        self.token_lost_s = None
        self.epoch = max(self.epoch, deposit.header.session_epoch)
        return self.mailbox.put(deposit)

    def begin(self) -> bool:
        """Take the session's turn; False while a request is under way or after the end."""
        with self.lock:
            if self._busy or self.closed:
                return False
            self._busy = True
            return True

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return self._busy

    def end(self) -> None:
        """Give the turn back, after what waited for it is done. Nothing can begin in between."""
        while True:
            with self.lock:
                if not self._when_idle:
                    self._busy = False
                    return
                action = self._when_idle.pop(0)
            try:
                action()
            except Exception:  # or the turn would never end
                log.exception("what waited for a turn of %s to end has failed", self.client)

    def when_idle(self, action: Callable[[], None]) -> None:
        """Run an action between two requests: now when none is under way, else by the thread that ends the turn."""
        with self.lock:
            self._when_idle.append(action)
            if self._busy:
                return
            self._busy = True
        self.end()

    def begin_episode(self, episode: int) -> None:
        """A new episode: the robot's processors forget the last one. Only by whoever holds the turn."""
        self.policy.reset()
        self.episode = episode

    def close(self) -> None:
        """End it: no more answers leave. Twice is once; a request under way finishes unheard."""
        with self.lock:
            if self.closed:
                return
            self.closed = True
        self.mailbox.clear()
        with suppress(TransportError):  # the network may be gone already
            self.publisher.undeclare()
        self.when_idle(self.policy.close)
