"""A real OpenAI-compatible HTTP server that misbehaves on demand, for tests and by hand.

with BadServer("500", times=2) as server:
    OpenAIAnswerer(VlmSettings(api_base=server.api_base, model_id=server.model))

python -m tests.answers.bad_server --mode prose --port 8123
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.answers.fitting import answer_class, instance

MODEL = "test-vlm"
STATUS_WORDS = {
    401: "Incorrect API key provided",
    403: "You have no access",
    404: "Not Found",
    422: "Unprocessable request",
    429: "Slow down",
    500: "Internal Server Error",
}


class BadServer:
    """A server on a free port of this machine.

    mode: how chat requests are answered; times: only the first so many, then `ok`; every: only each n-th.
    models: the model list as "list", "empty", "wrong", "hang", or a status such as "404".
    """

    def __init__(
        self,
        mode: str = "ok",
        *,
        times: int | None = None,
        every: int = 1,
        models: str = "list",
        model: str = MODEL,
        pictures_max: int = 4,
        tokens_enough: int = 600,
        delay_s: float = 0.2,
        retry_after: str | None = None,
        port: int = 0,
    ) -> None:
        if not mode.isdigit() and mode not in modes():
            raise ValueError(f"mode: want a status or one of {', '.join(modes())}, got {mode}")
        self.mode, self.times, self.every, self.models, self.model = mode, times, every, models, model
        self.pictures_max, self.tokens_enough = pictures_max, tokens_enough
        self.delay_s, self.retry_after = delay_s, retry_after
        self.bodies: list[dict[str, Any]] = []  # of all chat requests, in order of arrival
        self.headers: list[dict[str, str]] = []
        self.connections = self.in_flight = self.max_in_flight = 0
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.gate = threading.Event()  # hold chat replies back by clearing it
        self.gate.set()
        self.arrived = threading.Condition(self.lock)
        server = self

        class Handler(_Handler):
            bad = server

        self._http = _Server(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    @property
    def port(self) -> int:
        return self._http.server_address[1]

    @property
    def api_base(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
        """Wait until chat requests that arrived make the condition true."""
        with self.arrived:
            return self.arrived.wait_for(condition, timeout_s)

    def start(self) -> BadServer:
        self._thread.start()
        return self

    def stop(self) -> None:
        self.stopping.set()
        self.gate.set()
        self._http.shutdown()
        self._http.server_close()

    __enter__ = start

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    bad: BadServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        with self.bad.lock:
            self.bad.connections += 1

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""

    def do_GET(self) -> None:
        if self.path != "/v1/models":
            return self.send(404, {"detail": "Not Found"})
        kind = self.bad.models
        if kind == "hang":
            self.bad.stopping.wait()
            return None
        if kind.isdigit():
            return self.send(int(kind), {"error": {"message": STATUS_WORDS.get(int(kind), "no")}})
        names = {"list": ["other/model", self.bad.model], "wrong": ["other/model", "test-vlm-2"], "empty": []}[kind]
        return self.send(200, {"object": "list", "data": [{"id": n, "object": "model"} for n in names]})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/v1/chat/completions":
            return self.send(404, {"detail": "Not Found"})
        body = json.loads(raw)
        bad = self.bad
        with bad.arrived:
            bad.bodies.append(body)
            bad.headers.append(dict(self.headers))
            number = len(bad.bodies)
            bad.in_flight += 1
            bad.max_in_flight = max(bad.max_in_flight, bad.in_flight)
            bad.arrived.notify_all()
        try:
            bad.gate.wait()
            self.chat(body, number)
        finally:
            with bad.lock:
                bad.in_flight -= 1
        return None

    def chat(self, body: dict[str, Any], number: int) -> None:
        bad = self.bad
        misbehaves = (bad.times is None or number <= bad.times) and number % bad.every == 0
        mode = bad.mode if misbehaves else "ok"
        if mode.isdigit():
            self.chat_status(int(mode))
        else:
            getattr(self, f"chat_{mode}")(body)

    # ------------------------------------------------------------------ ways to answer

    def chat_status(self, status: int) -> None:
        headers = {"Retry-After": self.bad.retry_after} if self.bad.retry_after else {}
        self.send(status, {"error": {"message": STATUS_WORDS.get(status, "failed"), "code": status}}, headers)

    def chat_hang(self, body: dict[str, Any]) -> None:
        self.close_connection = True
        self.bad.stopping.wait()

    def chat_ok(self, body: dict[str, Any]) -> None:
        self.say(json.dumps(fitting_answer(body)))

    def chat_slow(self, body: dict[str, Any]) -> None:
        self.bad.stopping.wait(self.bad.delay_s)
        self.chat_ok(body)

    def chat_no_model(self, body: dict[str, Any]) -> None:
        self.send(404, {"error": {"message": f"The model `{body['model']}` does not exist.", "code": "NotFoundError"}})

    def chat_prose(self, body: dict[str, Any]) -> None:
        self.say("Sure! I see a robot that moves a cube. " * 10)

    def chat_half_json(self, body: dict[str, Any]) -> None:
        text = json.dumps(fitting_answer(body))
        self.say(text[: len(text) // 2])

    def chat_wrong_shape(self, body: dict[str, Any]) -> None:
        self.say('{"unexpected": 1}')

    def chat_empty(self, body: dict[str, Any]) -> None:
        self.say("")

    def chat_null(self, body: dict[str, Any]) -> None:
        self.say(None)

    def chat_no_choices(self, body: dict[str, Any]) -> None:
        self.send(200, {"id": "x", "object": "chat.completion", "choices": []})

    def chat_no_message(self, body: dict[str, Any]) -> None:
        self.send(200, {"id": "x", "object": "chat.completion", "choices": [{"index": 0, "finish_reason": "stop"}]})

    def chat_html(self, body: dict[str, Any]) -> None:
        self.send_raw(200, b"<html>Welcome to the proxy</html>", "text/html")

    def chat_drop(self, body: dict[str, Any]) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def chat_drip(self, body: dict[str, Any]) -> None:
        """A byte now and then, for ever."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n")
        while not self.bad.stopping.wait(0.05):
            self.wfile.write(b" ")
            self.wfile.flush()

    def chat_refuse_json_schema(self, body: dict[str, Any]) -> None:
        if body.get("response_format", {}).get("type") == "json_schema":
            return self.send(400, {"error": {"message": "response_format of type json_schema is unsupported"}})
        return self.chat_ok(body)

    def chat_refuse_all_formats(self, body: dict[str, Any]) -> None:
        if "response_format" in body:
            return self.send(422, {"detail": "Unexpected fields in the request: {'response_format'}"})
        return self.chat_ok(body)

    def chat_refuse_formats_silently(self, body: dict[str, Any]) -> None:
        if "response_format" in body:
            return self.send(400, {"error": "Bad Request"})
        return self.chat_ok(body)

    def chat_refuse_max_tokens(self, body: dict[str, Any]) -> None:
        for field in ("max_tokens", "temperature"):
            if field in body:
                return self.send(400, {"error": {"message": REFUSED_FIELDS[field], "code": "unsupported_parameter"}})
        return self.chat_ok(body)

    def chat_overflow(self, body: dict[str, Any]) -> None:
        if len(pictures(body)) > self.bad.pictures_max:
            words = "This model's maximum context length is 4096 tokens. However, you requested 9000 tokens."
            return self.send(400, {"object": "error", "message": words, "type": "BadRequestError", "code": 400})
        return self.chat_ok(body)

    def chat_think(self, body: dict[str, Any]) -> None:
        self.say(f'<think>Is it {{"count": 7}}? No.</think>\nHere:\n```json\n{json.dumps(fitting_answer(body))}\n```')

    def chat_invalid_utf8(self, body: dict[str, Any]) -> None:
        reply = json.dumps(completion("PLACE", "stop"))
        text = json.dumps(json.dumps(fitting_answer(body)))[1:-1].encode()
        self.send_raw(200, reply.encode().replace(b"PLACE", b"\xff\xfe " + text + b" \xc3"), "application/json")

    def chat_cut(self, body: dict[str, Any]) -> None:
        text = json.dumps(fitting_answer(body))
        enough = body["max_tokens"] >= self.bad.tokens_enough
        self.say(text if enough else text[: len(text) // 2], "stop" if enough else "length")

    def chat_cut_small(self, body: dict[str, Any]) -> None:
        """Cut at first; a larger token limit is an overflow; the correction is answered."""
        if len(body["messages"]) > 1:
            return self.chat_ok(body)
        if body["max_tokens"] >= self.bad.tokens_enough:
            return self.send(400, {"message": "max_tokens is too large: it exceeds the context length"})
        return self.chat_cut(body)

    # ------------------------------------------------------------------ bytes

    def say(self, text: str | None, finish: str = "stop") -> None:
        self.send(200, completion(text, finish))

    def send(self, status: int, payload: Any, headers: dict[str, str] | None = None) -> None:
        self.send_raw(status, json.dumps(payload).encode(), "application/json", headers)

    def send_raw(self, status: int, data: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        more = "".join(f"{k}: {v}\r\n" for k, v in (headers or {}).items())
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n{more}\r\n"
        self.wfile.write(head.encode() + data)


def modes() -> list[str]:
    """The ways to answer, beside the plain statuses such as "500"."""
    return sorted(name.removeprefix("chat_") for name in vars(_Handler) if name.startswith("chat_"))


REFUSED_FIELDS = {
    "max_tokens": "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.",
    "temperature": "Unsupported value: 'temperature' does not support 0.2 with this model.",
}


def completion(text: str | None, finish: str) -> dict[str, Any]:
    """The body of a reply."""
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": MODEL,
        "choices": [{"index": 0, "finish_reason": finish, "message": message}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    }


def blocks(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The content blocks of the question."""
    content = body["messages"][0]["content"]
    return content if isinstance(content, list) else [{"type": "text", "text": content}]


def pictures(body: dict[str, Any]) -> list[str]:
    """Data URLs of the question's pictures."""
    return [b["image_url"]["url"] for b in blocks(body) if b["type"] == "image_url"]


def prompt(body: dict[str, Any]) -> str:
    """The question's text."""
    return blocks(body)[-1]["text"]


def fitting_answer(body: dict[str, Any]) -> Any:
    """An answer that fits the schema of the request, or else the keys that the prompt shows."""
    wanted = body.get("response_format", {}).get("json_schema", {}).get("schema")
    if wanted is None:
        try:
            wanted = answer_class(prompt(body)).model_json_schema()
        except LookupError:
            return {}
    return instance(wanted, prompt(body))


def main() -> None:
    parser = argparse.ArgumentParser(description="An OpenAI-compatible server that misbehaves.")
    parser.add_argument("--mode", default="ok", help=f"a status, or one of {', '.join(modes())}")
    parser.add_argument("--models", default="list")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--times", type=int)
    parser.add_argument("--every", type=int, default=1)
    options = vars(parser.parse_args())
    with BadServer(options.pop("mode"), **options) as server, contextlib.suppress(KeyboardInterrupt):
        print(f"{server.api_base} model {server.model}", flush=True)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
