"""A chat server that takes only what it knows, and says so in the words of a real one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Refusal = Callable[[dict[str, Any]], tuple[int, Any] | None]  # (status, JSON body) of a refused request


def transformers(*fields: str) -> Refusal:
    """Fields that its request class does not have, in the words of `transformers serve`."""

    def refuse(body: dict[str, Any]) -> tuple[int, Any] | None:
        odd = set(fields) & set(body)
        return (422, {"detail": f"Unexpected fields in the request: {odd}"}) if odd else None

    return refuse


def hosted(*fields: str) -> Refusal:
    """One unknown argument at a time, and schemas of few words, as hosted servers have it."""

    def refuse(body: dict[str, Any]) -> tuple[int, Any] | None:
        odd = next((f for f in fields if f in body), None)
        if odd:
            return 400, {"error": {"message": f"Unrecognized request argument supplied: {odd}"}}
        if "minLength" in json.dumps(body.get("response_format", {})):
            place = "In context=('properties', 'memory'), 'minLength' is not permitted."
            return 400, {"error": {"message": f"Invalid schema for response_format 'Memory': {place}"}}
        return None

    return refuse


def pydantic(*fields: str) -> Refusal:
    """Extra inputs listed one by one, as servers built on pydantic have it."""

    def refuse(body: dict[str, Any]) -> tuple[int, Any] | None:
        odd = [f for f in fields if f in body]
        notes = [{"type": "extra_forbidden", "loc": ["body", f], "msg": "Extra inputs are not permitted"} for f in odd]
        return (422, {"detail": notes}) if odd else None

    return refuse


def mistral(body: dict[str, Any]) -> tuple[int, Any] | None:
    """A tokenizer without a template, in the words of vLLM."""
    if "chat_template_kwargs" in body:
        return 400, {"error": {"message": "chat_template is not supported for Mistral tokenizers.", "code": 400}}
    return None


def short_replies(body: dict[str, Any]) -> tuple[int, Any] | None:
    """A hosted model with a limit of its replies."""
    if body["max_tokens"] > 4096:
        words = f"max_tokens is too large: {body['max_tokens']}. This model supports at most 4096 completion tokens"
        return 400, {"error": {"message": words}}
    return None


def few_pictures(body: dict[str, Any]) -> tuple[int, Any] | None:
    """A server that counts pictures, in the words of vLLM."""
    content = body["messages"][0]["content"]
    if sum(p["type"] == "image_url" for p in content) > 2:
        return 400, {"error": {"message": "At most 2 image(s) may be provided in one prompt.", "code": 400}}
    return None


def lm_studio(body: dict[str, Any]) -> tuple[int, Any] | None:
    """A refusal that is called a success."""
    if "chat_template_kwargs" in body:
        return 200, {"error": "Unrecognized key(s) in object: 'chat_template_kwargs'"}
    return None


def out_of_memory(body: dict[str, Any]) -> tuple[int, Any] | None:
    """A server that cannot stand sampling arguments."""
    return (500, {"error": {"message": "std::bad_alloc"}}) if "mm_processor_kwargs" in body else None


class PickyServer:
    """Answers `reply` to what it takes; keeps all bodies."""

    def __init__(self, refuse: Refusal, reply: dict[str, Any]) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.taken: list[dict[str, Any]] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, refuse, json.dumps(reply)))
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.api_base = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> PickyServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


def _handler(server: PickyServer, refuse: Refusal, reply: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.bodies.append(body)
            status, answer = refuse(body) or (
                200,
                {"choices": [{"message": {"content": reply}, "finish_reason": "stop"}], "usage": {}},
            )
            if "choices" in answer:
                server.taken.append(body)
            raw = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler
