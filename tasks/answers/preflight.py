"""Whether a server can answer at all, asked before any video is decoded."""

from __future__ import annotations

import difflib
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from tasks.answers.client import CallError, ChatClient
from tasks.answers.failures import fatal, is_wrong_model
from tasks.errors import AnswererError
from tasks.settings import VlmSettings

log = logging.getLogger(__name__)

MODELS_TIMEOUT_S = 5.0
TRIES = 3
PAUSE_S = 0.5
MODELS_SHOWN_MAX = 10
T = TypeVar("T")
_NO_LIST = frozenset({400, 404, 405, 422, 500, 501})  # servers that keep no list, or fail to make one, may still chat


def preflight(client: ChatClient, settings: VlmSettings) -> None:
    """Raise AnswererError when the server is down, refuses the key or does not have the model."""
    try:
        models = _models(client, settings)
    except CallError as error:
        if error.status not in _NO_LIST:
            raise _unusable(error, settings) from error
        models = []
    if not models:
        _ping(client, settings)
    elif settings.model_id not in models:
        raise _wrong_model(models, settings)


def _models(client: ChatClient, settings: VlmSettings) -> list[str]:
    timeout_s = min(MODELS_TIMEOUT_S, settings.request_timeout_s)
    return _patiently(lambda: client.models(timeout_s), settings)


def _ping(client: ChatClient, settings: VlmSettings) -> None:
    """A tiny chat, where there is no list: any reply will do, and a refusal that is not about the model too."""
    body = {"model": settings.model_id, "messages": [{"role": "user", "content": "ping"}], "max_tokens": 1}
    try:
        _patiently(lambda: client.chat(body), settings)
    except CallError as error:
        if is_wrong_model(error) or error.status not in (400, 422, 429):
            raise _unusable(error, settings) from error


def _patiently(call: Callable[[], T], settings: VlmSettings) -> T:
    """A few tries: a server that is just starting refuses connections for a moment."""
    for _ in range(TRIES - 1):
        try:
            return call()
        except CallError as error:
            if error.status is not None and error.status not in (408, 429) and error.status < 500:
                raise
            log.info("%s: %s; trying again", settings.api_base, error)
            time.sleep(min(PAUSE_S, settings.retry_backoff_s))
    return call()


def _unusable(error: CallError, settings: VlmSettings) -> AnswererError:
    if error.status in (401, 403) or is_wrong_model(error):
        return fatal(error, settings)
    wanted = f"an OpenAI-compatible server at {settings.api_base}"
    if error.refused:
        return AnswererError(
            wanted,
            str(error),
            f"start it, e.g. `vllm serve {settings.model_id} --port 8000`, or pass --vlm.api_base=URL",
        )
    if error.status in (404, 405):
        return AnswererError(
            wanted, str(error), "pass the base of its chat API, most often ending in /v1: --vlm.api_base=URL"
        )
    return AnswererError(wanted, str(error), "see the server's log, or pass another one: --vlm.api_base=URL")


def _wrong_model(models: list[str], settings: VlmSettings) -> AnswererError:
    near = difflib.get_close_matches(settings.model_id, models, n=1, cutoff=0.0)
    shown = ", ".join(models[:MODELS_SHOWN_MAX]) + (", …" if len(models) > MODELS_SHOWN_MAX else "")
    return AnswererError(
        f"model {settings.model_id} at {settings.api_base}",
        f"the server has {shown}",
        f"pass --vlm.model_id={near[0]}, or start a server with the model you want",
    )
