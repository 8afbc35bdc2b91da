"""The reference's client, re-created from its specification: encode one by one, put, wait, give up after 5 s."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import zenoh

from bench.serving import reference_codec as codec
from bench.serving.reference_server import NETWORK
from bench.serving.trip import Trip
from serving.wire.keys import Keys

REQUEST_S = 5.0
QUEUE_MAX = 4


class ReferenceClient:
    """One robot of the draft."""

    def __init__(self, endpoint: str, keys: Keys, name: str) -> None:
        config = {"mode": "peer", "connect": {"endpoints": [endpoint]}, **NETWORK}
        self._network = zenoh.open(zenoh.Config.from_json5(json.dumps(config)))
        self._keys, self._name = keys, name
        self._answers: queue.Queue[tuple[tuple[int, ...], bytes]] = queue.Queue(QUEUE_MAX)
        self._full = threading.Lock()
        self._seq = 0

    def handshake(self) -> None:
        """Status, open, check, declare."""
        status = self._query(self._keys.status, b"")
        ask = {
            "op": "open", "client_uuid": self._name, "robot_type": "scripted", "policy_type": "", "fps": 30.0,
            "action_names": status["action_names"], "camera_names": status["expected_cameras"],
            "state_dim": status["state_dim"], "schema_version": 1, "rtc_enabled": False, "task": "", "tags": {},
        }  # fmt: skip
        ack = self._query(self._keys.session, codec.pack(ask))
        if not ack["accepted"]:
            raise ConnectionError(ack["error"])
        self._subscriber = self._network.declare_subscriber(self._keys.action(self._name), self._hear)
        self._publisher = self._network.declare_publisher(
            self._keys.observation(self._name), reliability=zenoh.Reliability.BEST_EFFORT, express=False,
            congestion_control=zenoh.CongestionControl.DROP, priority=zenoh.Priority.DATA,
        )  # fmt: skip
        self._token = self._network.liveliness().declare_token(self._keys.alive(self._name))

    def _query(self, key: str, body: bytes) -> dict[str, Any]:
        for reply in self._network.get(key, payload=body, timeout=REQUEST_S):
            if reply.ok is not None:
                return codec.unpack(reply.ok.payload.to_bytes())
        raise ConnectionError(f"no server answered on {key}")

    def _hear(self, sample: zenoh.Sample) -> None:
        attachment = sample.attachment.to_bytes() if sample.attachment is not None else b""
        if len(attachment) != codec.HEADER.size:
            return
        with self._full:
            if self._answers.full():
                self._answers.get_nowait()  # the oldest goes
            self._answers.put_nowait((codec.HEADER.unpack(attachment), sample.payload.to_bytes()))

    def encoded(self, images: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Pictures as they are sent."""
        return {name: codec.image(rgb) if isinstance(rgb, np.ndarray) else rgb for name, rgb in images.items()}

    def ask(self, state: np.ndarray, images: Mapping[str, Any], lost: bool = False) -> Trip:
        """Send an observation and wait for its chunk. Raises TimeoutError after 5 s."""
        began_s = time.monotonic()
        self._seq += 1
        observation = {
            "state": codec.tensor(state), "images": self.encoded(images), "task": "", "inference_delay_steps": 0,
            "prefix_model": None, "prefix_robot": None, "episode_start": False,
        }  # fmt: skip
        body = codec.pack(observation)
        if not lost:
            header = (codec.SCHEMA, codec.OBSERVATION, self._seq, 0, time.monotonic_ns(), 1)
            self._publisher.put(body, attachment=codec.HEADER.pack(*header))
        end_s = time.monotonic() + REQUEST_S
        while True:
            try:
                header, reply = self._answers.get(timeout=max(0.0, end_s - time.monotonic()))
            except queue.Empty:
                raise TimeoutError(f"no chunk for observation {self._seq}") from None
            if header[2] == self._seq:
                break
        chunk = codec.unpack(reply)
        model, robot = codec.array(chunk["chunk_model"]), codec.array(chunk["chunk_robot"])
        if model is None or robot is None:
            raise ValueError("a chunk in both forms")
        return Trip((time.monotonic() - began_s) * 1e3, len(body), len(reply))

    def ask_until_answered(self, state: np.ndarray, images: Mapping[str, Any], lose: int) -> Trip:
        """The draft waits out its time limit, then asks again."""
        began_s = time.monotonic()
        while True:
            try:
                trip = self.ask(state, images, lost=lose > 0)
            except TimeoutError:
                lose -= 1
                continue
            return Trip((time.monotonic() - began_s) * 1e3, trip.sent_bytes, trip.received_bytes)

    def leave(self) -> None:
        """Let the network go."""
        self._network.close()
