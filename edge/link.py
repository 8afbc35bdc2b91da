"""A robot's way to a server: finds one, opens a session, puts observations, and deposits what comes back.

Blocking calls (`open`, `say_goodbye`) are made by one thread at a time. Callbacks run on the network's threads and only
check, copy and deposit.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edge.compose import MODEL
from edge.contract import Contract
from edge.errors import ContractError, LinkError
from edge.settings import InferenceSettings
from network.transport import Declaration, Publisher, Sample, Transport
from serving.wire import features
from serving.wire.errors import RETRYABLE_REJECTS, HeaderError, MessageError, RejectCode
from serving.wire.header import MIN_SCHEMA_VERSION, SCHEMA_VERSION, TAG_BYTES, Header, MessageType, unpack
from serving.wire.keys import Keys
from serving.wire.messages import BOTH, ROBOT, SessionAck, SessionClose, Status, decode, encode

log = logging.getLogger(__name__)

ANSWERS_KEPT = 4  # that the worker has not taken yet; more are not let in
ANSWER_BYTES_MAX = 4 << 20  # a chunk of 1,024 rows for 256 joints in both forms is half of it
GOODBYE_S = 1.0
ANY_REPLICA = "*"
OURS = tuple(f for f in features.ALL if f != features.F16)  # half floats round what a robot executes


@dataclass(frozen=True, slots=True)
class Answer:
    """A message of our session that answers something we asked, or tells of the session."""

    header: Header
    body: bytes
    received_s: float  # monotonic


@dataclass
class Heard:
    """What callbacks left for the worker."""

    answers: deque[Answer] = field(default_factory=deque)
    lost: str = ""  # why the server is taken for gone; stays until the next session
    back: bool = False  # a server came (back) since the last handshake began


class Link:
    """One robot's sessions with one service, one after another."""

    def __init__(
        self, transport: Transport, keys: Keys, client: str, contract: Contract, settings: InferenceSettings,
        wake: Callable[[], None], count: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._transport, self._keys, self._client = transport, keys, client
        self._contract, self._settings = contract, settings
        self._wake, self._count = wake, count
        self.ack: SessionAck | None = None
        self.epoch = 0
        self.heard = Heard()
        self._expected: Mapping[int, int] = {}  # seq -> stamp of what may be answered; replaced, never changed
        self._tag = b""
        self._server = ""  # id of the replica that has our session, "" when it gave none
        self._resume: dict[str, str] = {}  # server -> token that replaces our own session there
        self._declared: list[Declaration] = []
        self._publisher: Publisher | None = None
        self._published_to = ""

    # --- sessions --------------------------------------------------------------------------------------------------

    def statuses(self) -> list[Status]:
        """What each replica says of itself; [] when nobody answers."""
        found = []
        for body in self._transport.query(self._keys.status, b"", self._settings.handshake_timeout_s):
            try:
                found.append(decode(body, Status))
            except MessageError as err:
                self._count("malformed")
                log.warning("a status that cannot be read was left out: %s", err)
        return found

    def open(self, task: str, avoid: str = "") -> SessionAck:
        """A session with the replica that has most room. Raises LinkError (try again) or ContractError (never will).

        Of several replicas the next is asked when one refuses for a reason of its own. `avoid`: the last to be asked.
        """
        self.epoch += 1
        self.heard.back = False
        statuses = self.statuses()
        if not statuses:
            endpoints = ", ".join(self._settings.connect_endpoint)
            raise LinkError(
                f"want a server on {self._keys.status}",
                f"no answer through {endpoints} in {self._settings.handshake_timeout_s:g} s",
                "start it; `edge check` with the same flags lists what serves there, and says which flag to change",
            )
        refused: LinkError | None = None
        for status in _by_room(statuses, avoid):
            try:
                self._adopt(self._ask(status, task), status)
            except LinkError as err:
                refused = err
                continue
            assert self.ack is not None
            return self.ack
        assert refused is not None
        raise refused

    def _ask(self, status: Status, task: str) -> SessionAck:
        if not status.min_schema_version <= SCHEMA_VERSION <= status.max_schema_version:
            got = f"{status.min_schema_version} to {status.max_schema_version}"
            raise ContractError(f"want a server of schema version {SCHEMA_VERSION}", got, "update the older side")
        self._contract.check_status(status)
        ask = self._contract.ask(self._client, task, rtc=self._settings.rtc.enabled, tags=self._settings.tags)
        modern = bool(status.features)
        if modern:
            ask.features, ask.server_id = list(OURS), status.server_id
            ask.resume_token = self._resume.get(status.server_id, "")
            ask.chunk_form = self._form(status)
        key = self._keys.session_of(self._client) if modern else self._keys.session
        answers = self._transport.query(key, encode(ask), self._settings.request_timeout_s)
        if not answers:
            got = f"no answer on {key} in {self._settings.request_timeout_s:g} s"
            raise LinkError("want a session", got, "see the server's log; is the key allowed in the router's ACL?")
        try:
            ack = decode(answers[0], SessionAck)
        except MessageError as err:
            raise LinkError("want an answer that can be read", str(err), "see the server's log") from err
        if not ack.accepted:
            raise refusal_of(ack)
        self._contract.check_ack(ack, rtc=self._settings.rtc.enabled)
        return ack

    def _form(self, status: Status) -> str:
        """Model space is only of use as a prefix."""
        needs_model = self._settings.rtc.enabled and status.supports_rtc and status.prefix_form == MODEL
        return BOTH if needs_model else ROBOT

    def _adopt(self, ack: SessionAck, status: Status) -> None:
        """Make the session ours, so that its messages are heard and all others are not."""
        agreed = features.agreed(OURS, ack.features)
        self._expected = {}
        self.heard.answers.clear()
        self._server = (ack.server_id or status.server_id) if features.REPLICA in agreed else ""
        self._tag = ack.session_tag if features.TAG in agreed and len(ack.session_tag) == TAG_BYTES else b""
        if ack.resume_token and self._server:
            self._resume = {self._server: ack.resume_token}
        self.heard.lost = ""
        self.ack = ack
        if not self._declared:
            self._declared = [
                self._transport.subscribe(self._keys.action(self._client), self._hear),
                self._transport.watch(self._keys.server_alive, self._server_changed),
                self._transport.watch(self._keys.replica_alive(ANY_REPLICA), self._server_changed),
                self._transport.token(self._keys.alive(self._client)),
            ]
        key = self._keys.observation(self._client, self._server)
        if key != self._published_to:
            if self._publisher is not None:
                self._publisher.undeclare()
            self._publisher, self._published_to = self._transport.publisher(key, "observation"), key

    @property
    def schema_version(self) -> int:
        """What both sides agreed on for the data."""
        return max(MIN_SCHEMA_VERSION, self.ack.schema_version) if self.ack else SCHEMA_VERSION

    def say_goodbye(self) -> None:
        """Free our place on the server; nobody minds when it does not answer."""
        if self.ack is None:
            return
        modern = bool(self.ack.features)
        key = self._keys.session_of(self._client) if modern else self._keys.session
        ask = SessionClose(client_uuid=self._client, session_id=self.ack.session_id)
        if not self._transport.query(key, encode(ask), GOODBYE_S):
            log.info("the server did not answer the end of the session; it will notice by itself")

    def close(self) -> None:
        """Leave the network. Ends blocking calls of other threads."""
        self._transport.close()

    # --- data ------------------------------------------------------------------------------------------------------

    def expect(self, stamps: Mapping[int, int]) -> None:
        """Answers to these requests are heard, by number and by the stamp that is echoed; nothing else is."""
        self._expected = dict(stamps)

    def put(self, body: bytes, header: Header) -> None:
        """Send an observation; never waits. Raises TransportError when the link is closed."""
        assert self._publisher is not None, "open first"
        self._publisher.put(body, header.pack(self._tag))

    # --- on the network's threads ----------------------------------------------------------------------------------

    def _hear(self, sample: Sample) -> None:
        received_s = time.monotonic()
        try:
            header, tag = unpack(sample.attachment)
        except HeaderError:
            return self._count("foreign")
        known = header.seq_id in self._expected and self._expected[header.seq_id] == header.client_mono_ns
        # an event of the session itself answers nothing; only a tag shows that it is the server's
        told = header.msg_type == MessageType.EVENT and bool(self._tag)
        if tag != self._tag or header.session_epoch != self.epoch or not (known or told):
            return self._count("foreign")
        if len(self.heard.answers) >= ANSWERS_KEPT:
            return self._count("foreign")  # the first answer counts: copies of its header may not push it out
        if sample.size > ANSWER_BYTES_MAX:
            return self._count("malformed")
        self.heard.answers.append(Answer(header, sample.body(), received_s))
        self._wake()
        return None

    def _server_changed(self, key: str, alive: bool) -> None:
        mine = self._keys.replica_alive(self._server) if self._server else self._keys.server_alive
        if alive:
            self.heard.back = True
        elif key == mine:
            self.heard.lost = "the server's token is gone"
        else:
            return
        self._wake()


def refusal_of(ack: SessionAck) -> LinkError | ContractError:
    """Why a session was refused, as an error that says whether to try again."""
    code = ack.code
    name = RejectCode(code).name.lower() if code in RejectCode._value2member_map_ else f"code {code}"
    wanted, got = f"want a session, refused: {name}", ack.error or "no reason given"
    if code == RejectCode.NONE or code in RETRYABLE_REJECTS or ack.retryable:
        remedy = _REMEDIES.get(code, "try again later; see the server's log")
        return LinkError(wanted, got, remedy, max(0.0, ack.retry_after_ms / 1e3), code)
    return ContractError(wanted, got, "make robot and manifest fit; `edge check` shows both sides", code)


_REMEDIES: dict[int, str] = {
    RejectCode.FULL: "end another robot's session, raise max_sessions, or start a replica",
    RejectCode.IN_USE: "another robot has this --inference.client_uuid; a run that just crashed is noticed in seconds",
    RejectCode.DRAINING: "wait for the replica that takes over, or start one",
}


def _by_room(statuses: Sequence[Status], avoid: str) -> list[Status]:
    """Replicas, the one with most room first."""
    return sorted(
        statuses,
        key=lambda s: (
            s.draining, bool(avoid) and s.server_id == avoid, not s.warmed_up, s.server_load, s.busy_share, s.server_id
        ),
    )  # fmt: skip
