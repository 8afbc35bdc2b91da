"""A stand-in for a VLM server: OpenAI's chat API with a fixed latency and a number of slots. Standard library only.

    python bench/stub_vlm.py --port 0 --latency-ms 200 --slots 16        the first line on stdout names the port

    GET /v1/models   POST /v1/chat/completions   GET /stats   POST /reset

Answers depend on the request alone: an instance of the schema in `response_format`, or, when there is none, of the JSON
fields that the last user text shows. So any annotator can be measured against it, whatever its prompts say.
"""

from __future__ import annotations

import argparse
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "stub-vlm"
SUBTASKS = 4
BOX = {"detections": [{"label": "red cube", "bbox_format": "xyxy", "bbox": [60, 50, 90, 80]}]}
VALUES: dict[str, Any] = {  # what every field holds when its schema allows it
    "question": "Where is the red cube?",
    "answer": BOX,
    "interjection": "Now the next one, please.",
    "speech": "On it.",
    "memory": "I moved the red cube.",
    "description": "0-5 s: the gripper closes on the red cube. 5-20 s: it is carried and released.",
    "rephrasings": [f"Please move the red cube, wording {i}." for i in range(1, 11)],
    "synonym_paraphrase": ["Move the red cube over."],
    "task": "Put the red cube in the blue box.",
    "label": "red cube",
    "text": "Got it.",
    "bbox": [60, 50, 90, 80],
    "point": [75, 65],
    "count": 2,
    "attribute": "colour",
    "value": "red",
    "subject": "red cube",
    "relation": "left_of",
    "object": "blue box",
}
# A request's kind, by the fields its answer must have; the first that fits counts.
KINDS: tuple[tuple[str, frozenset[str]], ...] = (
    ("vqa", frozenset({"question", "answer"})),
    ("subtasks", frozenset({"subtasks"})),
    ("interjection", frozenset({"interjection", "speech"})),
    *((name, frozenset({name})) for name in ("rephrasings", "synonym_paraphrase", "memory", "description")),
    *((name, frozenset({name})) for name in ("label", "task", "text")),
)


def answer(body: Mapping[str, Any], seconds: float) -> tuple[str, dict[str, Any]]:
    """The kind of a request and its answer."""
    values = VALUES | {"subtasks": _subtasks(seconds)}
    schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema")
    if schema is not None:
        return _kind(schema.get("properties", {})), _fill(schema, schema, "", values)
    texts = [text for message in body["messages"] if message["role"] == "user" for text in _texts(message["content"])]
    kind = next((k for k in (_kind(_shown_fields(text)) for text in reversed(texts)) if k != "other"), "other")
    fields = next((fields for name, fields in KINDS if name == kind), frozenset({"text"}))
    return kind, {name: values[name] for name in sorted(fields)}


def _subtasks(seconds: float) -> list[dict[str, Any]]:
    cuts = [round(seconds * i / SUBTASKS, 2) for i in range(SUBTASKS + 1)]
    verbs = ("pick up", "put down")
    colours = ("red", "green")
    return [
        {"text": f"{verbs[i % 2]} the {colours[i // 2]} cube", "start": cuts[i], "end": cuts[i + 1]}
        for i in range(SUBTASKS)
    ]


def _kind(fields: Any) -> str:
    return next((name for name, needed in KINDS if needed <= set(fields)), "other")


def _texts(content: Any) -> list[str]:
    return [content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"]


def _shown_fields(text: str) -> set[str]:
    return set(re.findall(r"\"([a-z_]+)\"\s*:", text))


def _fill(schema: Any, root: Mapping[str, Any], name: str, values: Mapping[str, Any]) -> Any:
    """A value that the schema allows: the prepared one of that name where it fits, else the smallest."""
    while "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rsplit("/", 1)[-1]]
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return values[name] if values.get(name) in schema["enum"] else schema["enum"][0]
    if "anyOf" in schema:
        return _fill(schema["anyOf"][0], root, name, values)
    kind, prepared = schema.get("type"), values.get(name)
    if kind == "object":
        return {key: _fill(sub, root, key, values) for key, sub in schema["properties"].items()}
    if kind == "array":
        item = schema["items"]
        if isinstance(prepared, list):
            return prepared[: schema.get("maxItems")]
        return [_fill(item, root, name, values) for _ in range(schema.get("minItems", 1))]
    if kind == "string":
        return prepared if isinstance(prepared, str) else "red cube"
    if kind == "boolean":
        return False
    return prepared if isinstance(prepared, int | float) else max(0, schema.get("minimum", 0))


class Counters:
    """What is measured. A slot is busy from the moment a request gets it until its answer is ready."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        with self.lock:
            self.bytes = self.images = self.errors = self.in_flight_max = self._in_flight = 0
            self.busy_s = 0.0
            self.first_s: float | None = None
            self.last_s = 0.0
            self.kinds: Counter[str] = Counter()

    def arrived(self) -> None:
        with self.lock:
            self._in_flight += 1
            self.in_flight_max = max(self.in_flight_max, self._in_flight)
            if self.first_s is None:
                self.first_s = time.monotonic()

    def answered(self, kind: str, size: int, images: int, busy_s: float) -> None:
        with self.lock:
            self._in_flight -= 1
            self.kinds[kind] += 1
            self.bytes += size
            self.images += images
            self.busy_s += busy_s
            self.last_s = time.monotonic()

    def refused(self) -> None:
        with self.lock:
            self._in_flight -= 1
            self.errors += 1

    def report(self, slots: int) -> dict[str, Any]:
        with self.lock:
            span_s = self.last_s - self.first_s if self.first_s is not None and self.last_s else 0.0
            return {
                "requests": self.kinds.total(),
                "kinds": dict(sorted(self.kinds.items())),
                "errors": self.errors,
                "bytes": self.bytes,
                "images": self.images,
                "in_flight_max": self.in_flight_max,
                "busy_slot_s": round(self.busy_s, 3),
                "span_s": round(span_s, 3),
                "busy_share": round(self.busy_s / (slots * span_s), 4) if span_s else 0.0,
            }


class StubServer(ThreadingHTTPServer):
    """One thread a connection; `slots` of them answer at a time."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, port: int, *, latency_s: float, slots: int, seconds: float) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.latency_s, self.slots, self.seconds = latency_s, slots, seconds
        self.gate = threading.Semaphore(slots)
        self.counters = Counters()


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 with kept connections, and one write per answer, so that no delayed acknowledgement is measured."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: StubServer

    def log_message(self, *_: Any) -> None:
        """Say nothing: a line per request would be measured too."""

    def do_GET(self) -> None:
        if self.path.rstrip("/") == "/v1/models":
            self._reply(200, {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "stub"}]})
        elif self.path == "/stats":
            self._reply(200, self.server.counters.report(self.server.slots))
        else:
            self._reply(404, {"error": {"message": f"no path {self.path}"}})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/reset":
            self.server.counters.reset()
            self._reply(200, {})
        elif self.path.rstrip("/") == "/v1/chat/completions":
            self._chat(raw)
        else:
            self._reply(404, {"error": {"message": f"no path {self.path}"}})

    def _chat(self, raw: bytes) -> None:
        counters = self.server.counters
        counters.arrived()
        try:
            body = json.loads(raw)
            kind, content = answer(body, self.server.seconds)
        except (KeyError, TypeError, ValueError) as error:
            counters.refused()
            self._reply(400, {"error": {"message": f"{type(error).__name__}: {error}"}})
            return
        with self.server.gate:
            began = time.monotonic()
            time.sleep(self.server.latency_s)
            busy_s = time.monotonic() - began
        counters.answered(kind, len(raw), raw.count(b"data:image/"), busy_s)
        text = json.dumps(content)
        usage = {"prompt_tokens": len(raw) // 400, "completion_tokens": len(text) // 4}
        message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        usage["total_tokens"] = sum(usage.values())
        common = {"id": "chatcmpl-stub", "object": "chat.completion", "created": int(time.time())}
        self._reply(200, common | {"model": body.get("model", MODEL), "choices": [message], "usage": usage})

    def _reply(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        self.wfile.write(head.encode() + data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--latency-ms", type=float, default=200.0)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--episode-seconds", type=float, default=20.0, help="length that subtasks are spread over")
    args = parser.parse_args()
    server = StubServer(args.port, latency_s=args.latency_ms / 1000, slots=args.slots, seconds=args.episode_seconds)
    print(server.server_address[1], flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


if __name__ == "__main__":
    main()
