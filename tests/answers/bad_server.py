"""A real OpenAI-compatible HTTP server that misbehaves on demand, for tests and by hand.

with BadServer("500", times=2) as server:
    OpenAIAnswerer(VlmSettings(api_base=server.api_base, model_id=server.model))

python -m tests.answers.bad_server --mode prose --port 8123

As a process it misbehaves in other ways too: late, chatty, deaf to SIGINT, with a child that stays, dying in mid-run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.answers.fitting import answer_class, instance

MODEL = "test-vlm"
HUGE_BYTES = 50 * 2**20
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
        self.huge_bytes = 0  # how much of a huge reply was taken
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.gate = threading.Event()  # hold chat replies back by clearing it
        self.gate.set()
        self.arrived = threading.Condition(self.lock)
        self.before_reply: Callable[[int], None] = lambda number: None  # told the number of each chat request
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
    requests = 0  # of this connection
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
        self.requests += 1
        with bad.arrived:
            bad.bodies.append(body)
            bad.headers.append(dict(self.headers))
            number = len(bad.bodies)
            bad.in_flight += 1
            bad.max_in_flight = max(bad.max_in_flight, bad.in_flight)
            bad.arrived.notify_all()
        try:
            bad.gate.wait()
            bad.before_reply(number)
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

    def chat_drop_if_kept(self, body: dict[str, Any]) -> None:
        """A good answer to the first request of a connection, none to the second."""
        if self.requests > 1:
            return self.chat_drop(body)
        return self.chat_ok(body)

    def chat_close_midway(self, body: dict[str, Any]) -> None:
        """Half of a good answer, then nothing more."""
        data = json.dumps(completion(json.dumps(fitting_answer(body)), "stop")).encode()
        self.close_connection = True
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        self.wfile.write(head.encode() + data[: len(data) // 2])
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def chat_huge(self, body: dict[str, Any]) -> None:
        """50 MB of text in a reply that would be sound."""
        self.close_connection = True  # clients hang up
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        before, after = json.dumps(completion("PLACE", "stop")).split("PLACE")
        self.wfile.write(before.encode())
        for _ in range(HUGE_BYTES // 2**16):
            self.bad.huge_bytes += self.wfile.write(b"robots, " * 2**13)
        self.wfile.write(after.encode())

    def chat_other_model(self, body: dict[str, Any]) -> None:
        """As a server that is pinned to a folder: it resolves the name itself."""
        self.send(200, completion("pong", "stop") | {"model": f"{body['model']}@main"})

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


class Life:
    """How a server process goes wrong, apart from its answers."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.number = 1  # how often a server has been started with this file of lives

    def begin(self) -> None:
        """What happens before it listens."""
        given = self.options
        if given.lives is not None:
            with given.lives.open("a") as file:
                file.write(f"{os.getpid()}\n")
            self.number = len(given.lives.read_text().splitlines())
        if given.deaf:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        if given.child is not None:
            self.leave_child(given.child)
        for _ in range(given.chatty):
            print("loading weights " * 60, flush=True)
        time.sleep(given.delay_s)
        if given.exit is not None:
            print("CUDA out of memory", flush=True)
            sys.exit(given.exit)

    def leave_child(self, path: Path) -> None:
        """One child in this group and one in a session of its own; neither cares about signals that can be ignored."""
        sleep = "import signal, time; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]; time.sleep(600)"
        children = [subprocess.Popen([sys.executable, "-c", sleep], start_new_session=own) for own in (False, True)]
        path.write_text("\n".join(str(c.pid) for c in children))

    def before_reply(self, number: int) -> None:
        """Die in the midst of a request, as often as asked for."""
        given = self.options
        if given.dies_after is not None and number > given.dies_after and self.number <= given.deaths:
            print("Segmentation fault", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(description="An OpenAI-compatible server that misbehaves.")
    parser.add_argument("--mode", default="ok", help=f"a status, or one of {', '.join(modes())}")
    parser.add_argument("--models", default="list")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--times", type=int)
    parser.add_argument("--every", type=int, default=1)
    life = parser.add_argument_group("life of the process")
    life.add_argument("--lives", type=Path, help="a file that gets the process id of each start")
    life.add_argument("--delay-s", type=float, default=0.0, help="before it listens")
    life.add_argument("--exit", type=int, help="instead of listening, with this code")
    life.add_argument("--chatty", type=int, default=0, help="so many long lines before it listens")
    life.add_argument("--deaf", action="store_true", help="ignore SIGINT")
    life.add_argument("--child", type=Path, help="start children that stay; their process ids go to this file")
    life.add_argument("--dies-after", type=int, help="SIGKILL itself when it has had so many chat requests")
    life.add_argument("--deaths", type=int, default=1, help="in so many of its lives")
    options = parser.parse_args()
    lived = Life(options)
    lived.begin()
    server = BadServer(
        options.mode, times=options.times, every=options.every,
        models=options.models, model=options.model, port=options.port,
    )  # fmt: skip
    server.before_reply = lived.before_reply
    with server, contextlib.suppress(KeyboardInterrupt):
        print(f"{server.api_base} model {server.model}", flush=True)
        while True:
            time.sleep(0.2)  # a signal that another thread received does not end a long sleep


if __name__ == "__main__":
    main()
