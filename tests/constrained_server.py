"""A small model server of our own: the tiny model behind the chat protocol, held to the schema that was sent."""

from __future__ import annotations

import base64
import io
import json
import threading
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import BaseModel

from tasks.answers.engine import Prompt
from tasks.answers.question import Picture
from tasks.answers.transformers_engine import TransformersEngine
from tasks.settings import VlmSettings

DATA_URL = "data:image/jpeg;base64,"
BODY_BYTES_MAX = 64 * 2**20


class ConstrainedServer:
    """Listens on a free port of this machine. `bodies` and `replies` hold what came and went."""

    def __init__(self, folder: Path) -> None:
        self.model = str(folder)
        self.bodies: list[dict[str, Any]] = []
        self.replies: list[dict[str, Any]] = []
        self.pictures: list[tuple[int, int]] = []  # sizes, as decoded
        self._engine = TransformersEngine(VlmSettings(backend="transformers", model_id=self.model, temperature=0))
        self._engine.load()
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.api_base = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop listening and free the model."""
        self._http.shutdown()
        self._http.server_close()
        self._engine.close()

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """The reply to a chat request."""
        with self._lock:
            self.bodies.append(body)
            (done,) = self._engine.generate([self._prompt(body)], threading.Event())
            usage = {"prompt_tokens": done.tokens_in, "completion_tokens": done.tokens_out}
            message = {"role": "assistant", "content": done.text}
            choice = {"index": 0, "message": message, "finish_reason": "length" if done.cut else "stop"}
            reply = {"object": "chat.completion", "model": self.model, "choices": [choice], "usage": usage}
            self.replies.append(reply)
        return reply

    def _prompt(self, body: dict[str, Any]) -> Prompt:
        first, *correction = body["messages"]
        *shown, last = first["content"]
        pictures: list[Picture] = []
        caption = ""
        for part in shown:
            if part["type"] == "text":
                caption = part["text"]
                continue
            pictures.append(self._picture(part["image_url"]["url"], caption))
            caption = ""
        wanted = json.dumps(body["response_format"]["json_schema"]["schema"])
        return Prompt(last["text"], tuple(pictures), _answer(wanted), body["max_tokens"], tuple(correction))

    def _picture(self, url: str, caption: str) -> Picture:
        assert url.startswith(DATA_URL)
        jpeg = base64.b64decode(url.removeprefix(DATA_URL), validate=True)
        with Image.open(io.BytesIO(jpeg)) as image:
            self.pictures.append(image.size)
            return Picture(jpeg, *image.size, caption)


@lru_cache(maxsize=64)
def _answer(schema: str) -> type[BaseModel]:
    """A model whose schema is the one that was sent."""

    class Sent(BaseModel):
        @classmethod
        def model_json_schema(cls, **_: Any) -> dict[str, Any]:
            return json.loads(schema)

    return Sent


def _handler(server: ConstrainedServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(200, {"object": "list", "data": [{"id": server.model, "object": "model"}]})

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            assert length <= BODY_BYTES_MAX
            body = json.loads(self.rfile.read(length))
            if body["model"] != server.model:
                self._send(404, {"error": {"message": f"model {body['model']} not found", "code": "model_not_found"}})
            elif body.get("response_format", {}).get("type") != "json_schema":
                self._send(422, {"error": {"message": "response_format must be json_schema"}})
            else:
                self._send(200, server.chat(body))

        def _send(self, status: int, body: dict[str, Any]) -> None:
            raw = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler
