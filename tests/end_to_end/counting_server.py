"""A server that counts what it was asked and what it charged, and misbehaves by turns."""

from __future__ import annotations

import json
from typing import Any

from tests.answers.bad_server import BadServer

TURNS = {3: "500", 5: "wrong_shape", 7: "prose", 11: "cut", 17: "refuse_all_formats"}  # each costs a request


class CountingServer(BadServer):
    """Each reply names another number of tokens. `refused`: text of requests that never get a fitting answer."""

    def __init__(self, *, turns: dict[int, str] | None = None, refused: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.turns, self.refused = TURNS if turns is None else turns, refused
        self.tokens_in = self.tokens_out = 0
        counting = self

        class Handler(self._http.RequestHandlerClass):  # type: ignore[name-defined,misc]
            def chat(self, body: dict[str, Any], number: int) -> None:
                mode = next((m for turn, m in counting.turns.items() if number % turn == 0), "ok")
                if counting.refused and counting.refused in json.dumps(body):
                    mode = "prose"
                counting.delayed(self, mode, body)

            def send(self, status: int, payload: Any, headers: dict[str, str] | None = None) -> None:
                if isinstance(payload, dict) and "usage" in payload:
                    payload["usage"] = counting.charge(payload)
                super().send(status, payload, headers)

        self._http.RequestHandlerClass = Handler

    def delayed(self, handler: Any, mode: str, body: dict[str, Any]) -> None:
        """Answer in a mode, after the pause of this server."""
        self.stopping.wait(self.delay_s)
        if mode.isdigit():
            handler.chat_status(int(mode))
        else:
            getattr(handler, f"chat_{mode}")(body)

    def charge(self, payload: dict[str, Any]) -> dict[str, int]:
        """Tokens of one reply, added to the bill before it is sent."""
        size = len(json.dumps(payload["choices"]))
        with self.lock:
            tokens_in, tokens_out = 100 + len(self.bodies), 1 + size // 4
            self.tokens_in += tokens_in
            self.tokens_out += tokens_out
        return {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}

    @property
    def bill(self) -> tuple[int, int, int]:
        """Requests, tokens in, tokens out."""
        with self.lock:
            return len(self.bodies), self.tokens_in, self.tokens_out
