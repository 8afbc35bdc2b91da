"""The reference's server, re-created from its specification: one worker thread does everything, round-robin.

    python -m bench.serving.reference_server tcp/127.0.0.1:7447 [--wait-ms 20]

Kept from the draft: default Zenoh callbacks that deposit into a one-slot mailbox, a worker that wakes every 50 ms or
when called, picks one session at a time, decodes, predicts, encodes both forms of the chunk and publishes, all in its
own thread; the look for dropped sessions once a second; one line of JSON in the audit log for each request. Left out:
what a policy's own processors do, on both sides of the comparison.
"""

from __future__ import annotations

import argparse
import json
import logging
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zenoh

from bench.serving import reference_codec as codec
from bench.serving.task import ACTIONS, CAMERAS, JOINTS, MODEL, REVISION, ROWS, SERVICE, Pace, answer
from serving.wire.keys import Keys

KEYS = Keys.of(MODEL, REVISION, service=SERVICE)
SESSIONS_MAX = 64
WAKE_S = 0.05
GC_S = 1.0
TOKEN_GRACE_S = 5.0
audit = logging.getLogger("bench.serving.audit")
# as the draft sets it, but for memory shared between processes of one host: what is measured is TCP
NETWORK: dict[str, Any] = {
    "scouting": {"multicast": {"enabled": False}},
    "transport": {"shared_memory": {"enabled": False}},
}


@dataclass
class Session:
    """One robot."""

    publisher: zenoh.Publisher
    session_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    episode: int = -1
    lock: threading.Lock = field(default_factory=threading.Lock)
    slot: tuple[tuple[int, ...], bytes, float] | None = None
    superseded: int = 0
    last_seen_s: float = field(default_factory=time.monotonic)
    token_dropped_s: float | None = None

    def deposit(self, header: tuple[int, ...], body: bytes) -> None:
        """The newest wins."""
        with self.lock:
            self.superseded += self.slot is not None
            self.slot = (header, body, time.monotonic())
            self.last_seen_s, self.token_dropped_s = time.monotonic(), None

    def take(self) -> tuple[tuple[int, ...], bytes, float] | None:
        """Empty the slot."""
        with self.lock:
            taken, self.slot = self.slot, None
            return taken


class Server:
    """Everything around one worker."""

    def __init__(self, network: zenoh.Session, pace: Pace) -> None:
        self._network, self._pace = network, pace
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()
        self._inference = threading.Lock()
        self._wake = threading.Event()
        self._last_served = ""
        self._collected_s = time.monotonic()
        threading.Thread(target=self._work, daemon=True).start()
        self._declared = [
            network.declare_subscriber(KEYS.observation("*"), self._on_observation),
            network.declare_queryable(KEYS.status, self._on_status),
            network.declare_queryable(KEYS.session, self._on_session),
            network.declare_queryable(KEYS.reset("*"), self._on_reset),
            network.liveliness().declare_subscriber(KEYS.alive("*"), self._on_token, history=True),
            network.liveliness().declare_token(KEYS.server_alive),
        ]

    # --- callbacks -------------------------------------------------------------------------------------------------

    def _on_observation(self, sample: zenoh.Sample) -> None:
        attachment = sample.attachment.to_bytes() if sample.attachment is not None else b""
        if len(attachment) != codec.HEADER.size:
            return
        session = self._sessions.get(str(sample.key_expr).split("/")[-2])
        if session is not None:
            session.deposit(codec.HEADER.unpack(attachment), sample.payload.to_bytes())
            self._wake.set()

    def _facts(self) -> dict[str, Any]:
        return {
            "model_repo": MODEL, "model_revision": REVISION, "policy_type": "stub", "action_names": list(ACTIONS),
            "expected_cameras": list(CAMERAS), "state_dim": JOINTS, "chunk_size": ROWS, "trained_fps": 30.0,
            "supports_rtc": False, "rtc_execution_horizon": 0, "serving_mode": "shared", "warmed_up": True,
        }  # fmt: skip

    def _on_status(self, query: zenoh.Query) -> None:
        with query:
            places = {"active_sessions": len(self._sessions), "max_sessions": SESSIONS_MAX}
            versions = {"min_schema_version": 1, "max_schema_version": 1}
            query.reply(KEYS.status, codec.pack({**self._facts(), **places, **versions}))

    def _on_session(self, query: zenoh.Query) -> None:
        with query:
            ask = codec.unpack(query.payload.to_bytes()) if query.payload is not None else {}
            if ask.get("op") == "close":
                self._sessions.pop(ask["client_uuid"], None)
                return query.reply(KEYS.session, codec.pack({"ok": True, "error": ""}))
            client = ask["client_uuid"]
            publisher = self._network.declare_publisher(
                KEYS.action(client), reliability=zenoh.Reliability.RELIABLE, express=True,
                congestion_control=zenoh.CongestionControl.DROP, priority=zenoh.Priority.INTERACTIVE_HIGH,
            )  # fmt: skip
            session = Session(publisher)
            with self._lock:
                self._sessions[client] = session
            ack = {"accepted": True, "session_id": session.session_id, "schema_version": 1, **self._facts()}
            query.reply(KEYS.session, codec.pack(ack))

    def _on_reset(self, query: zenoh.Query) -> None:
        with query:
            session = self._sessions.get(str(query.key_expr).split("/")[-2])
            with self._inference:
                if session is not None:
                    session.take()
            query.reply(query.key_expr, codec.pack({"ok": session is not None, "error": ""}))

    def _on_token(self, sample: zenoh.Sample) -> None:
        session = self._sessions.get(str(sample.key_expr).split("/")[-2])
        if session is not None:
            session.token_dropped_s = None if sample.kind == zenoh.SampleKind.PUT else time.monotonic()

    # --- the worker ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            if time.monotonic() - self._collected_s > GC_S:
                self._collect()
            with self._lock:
                ready = sorted(name for name, session in self._sessions.items() if session.slot is not None)
            if not ready:
                self._wake.wait(WAKE_S)
                self._wake.clear()
                continue
            self._last_served = next((name for name in ready if name > self._last_served), ready[0])
            self._serve(self._last_served, self._sessions[self._last_served])

    def _serve(self, client: str, session: Session) -> None:
        taken = session.take()
        if taken is None:
            return
        header, body, received_s = taken
        waited_ms = (time.monotonic() - received_s) * 1e3
        _, _, seq, episode, stamp, epoch = header
        outcome, inference_ms = "ok", 0.0
        try:
            observation = codec.unpack(body)
            state = codec.array(observation["state"])
            images = {name: codec.picture(sent) for name, sent in observation["images"].items()}
            if state is None or set(images) < set(CAMERAS):
                raise ValueError("a state and two cameras")
            began_s = time.monotonic()
            with self._inference:
                session.episode = episode
                self._pace.take(1)
                chunk = answer(state)
                model, robot = chunk.astype(np.float32), chunk.astype(np.float32)
            inference_ms = (time.monotonic() - began_s) * 1e3
            reply = {
                "seq_id_echo": seq, "client_mono_ns_echo": stamp, "episode_id_echo": episode,
                "chunk_model": codec.tensor(model), "chunk_robot": codec.tensor(robot), "queue_wait_ms": waited_ms,
                "inference_ms": inference_ms, "superseded_seqs": session.superseded,
                "server_load": len(self._sessions) / SESSIONS_MAX,
            }  # fmt: skip
            attachment = codec.HEADER.pack(codec.SCHEMA, codec.CHUNK, seq, episode, stamp, epoch)
            session.publisher.put(codec.pack(reply), attachment=attachment)
            session.superseded = 0
        except (ValueError, KeyError, zenoh.ZError) as err:
            outcome = f"error: {err}"
        line = {
            "session_id": session.session_id, "client_uuid": client, "seq_id": seq, "episode_id": episode,
            "queue_wait_ms": round(waited_ms, 3), "inference_ms": round(inference_ms, 3),
            "superseded": session.superseded, "outcome": outcome,
        }  # fmt: skip
        audit.info(json.dumps(line))

    def _collect(self) -> None:
        self._collected_s = time.monotonic()
        for client, session in list(self._sessions.items()):
            dropped_s = session.token_dropped_s
            if dropped_s is not None and time.monotonic() - dropped_s > TOKEN_GRACE_S:
                del self._sessions[client]


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("endpoint")
    parser.add_argument("--wait-ms", type=float, default=0.0)
    parser.add_argument("--extra-ms", type=float, default=0.0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    config = {"mode": "peer", "listen": {"endpoints": [args.endpoint]}, **NETWORK}
    with zenoh.open(zenoh.Config.from_json5(json.dumps(config))) as network:
        Server(network, Pace(args.wait_ms, args.extra_ms))
        print("ready", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
