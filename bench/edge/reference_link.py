"""The network of the reference's engine: queries read by polling, a subscriber that deposits, two tokens."""

from __future__ import annotations

import json
import queue
import threading
import time
from contextlib import suppress
from typing import Any

import zenoh

from bench.serving import reference_codec as codec
from bench.serving.reference_server import NETWORK
from serving.wire.keys import Keys

HANDSHAKE_S, REQUEST_S, CONTROL_S = 2.0, 5.0, 1.0
SLACK_S = 0.5  # beyond a query's own time limit
POLL_S = 0.005
QUEUE_MAX = 4

Answer = tuple[tuple[int, ...], bytes]


class ReferenceLink:
    """One robot's side of a service."""

    def __init__(self, endpoint: str, mode: str, keys: Keys, name: str) -> None:
        config = {"mode": mode, "connect": {"endpoints": [endpoint]}, **NETWORK}
        self._network = zenoh.open(zenoh.Config.from_json5(json.dumps(config)))
        self._keys, self._name = keys, name
        self._answers: queue.Queue[Answer] = queue.Queue(QUEUE_MAX)
        self._full = threading.Lock()
        self.server_alive = threading.Event()

    def handshake(self, ask: dict[str, Any]) -> dict[str, Any]:
        """Status, open, check of the action names. Raises ConnectionError, ValueError."""
        status = self.query(self._keys.status, b"", HANDSHAKE_S)
        names = ask["action_names"] or status["action_names"]
        opening = {"op": "open", "client_uuid": self._name, "schema_version": codec.SCHEMA, **ask}
        opening |= {"action_names": names, "camera_names": ask["camera_names"] or status["expected_cameras"]}
        ack = self.query(self._keys.session, codec.pack(opening), REQUEST_S)
        if not ack["accepted"]:
            raise ConnectionError(ack["error"])
        if ack["action_names"] and ack["action_names"] != names:
            raise ValueError(f"the server's actions are {ack['action_names']}, the robot's {names}")
        return ack

    def declare(self) -> None:
        """Once; it lasts for all sessions."""
        self._subscriber = self._network.declare_subscriber(self._keys.action(self._name), self._hear)
        self._publisher = self._network.declare_publisher(
            self._keys.observation(self._name), reliability=zenoh.Reliability.BEST_EFFORT, express=False,
            congestion_control=zenoh.CongestionControl.DROP, priority=zenoh.Priority.DATA,
        )  # fmt: skip
        liveliness = self._network.liveliness()
        self._watch = liveliness.declare_subscriber(self._keys.server_alive, self._server_changed, history=True)
        self._token = liveliness.declare_token(self._keys.alive(self._name))

    def query(self, key: str, body: bytes, timeout_s: float) -> dict[str, Any]:
        """The first reply. Raises ConnectionError."""
        replies = self._network.get(key, payload=body, timeout=timeout_s)
        end_s = time.monotonic() + timeout_s + SLACK_S
        while time.monotonic() < end_s:
            try:
                reply = replies.try_recv()
            except zenoh.ZError:  # all have answered
                break
            if reply is None:
                time.sleep(POLL_S)
            elif reply.ok is not None:
                return codec.unpack(reply.ok.payload.to_bytes())
        raise ConnectionError(f"no server answered on {key} within {timeout_s:g} s")

    def reset(self, episode: int) -> None:
        """Tell of a new episode. Raises ConnectionError."""
        ask = {"client_uuid": self._name, "episode_id": episode}
        self.query(self._keys.reset(self._name), codec.pack(ask), CONTROL_S)

    def put(self, body: bytes, header: tuple[int, ...]) -> None:
        """Send an observation."""
        self._publisher.put(body, attachment=codec.HEADER.pack(*header))

    def answer(self, timeout_s: float) -> Answer | None:
        """The next chunk that came in, whosesoever it is."""
        try:
            return self._answers.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def close(self, session_id: str) -> None:
        """End the session if anybody hears it, and let the network go."""
        ask = {"op": "close", "client_uuid": self._name, "session_id": session_id}
        with suppress(ConnectionError):  # best effort
            self.query(self._keys.session, codec.pack(ask), CONTROL_S)
        self._network.close()

    def _hear(self, sample: zenoh.Sample) -> None:
        attachment = sample.attachment.to_bytes() if sample.attachment is not None else b""
        if len(attachment) != codec.HEADER.size:
            return
        with self._full:
            if self._answers.full():
                self._answers.get_nowait()  # the oldest goes
            self._answers.put_nowait((codec.HEADER.unpack(attachment), sample.payload.to_bytes()))

    def _server_changed(self, sample: zenoh.Sample) -> None:
        (self.server_alive.set if sample.kind == zenoh.SampleKind.PUT else self.server_alive.clear)()
