"""Whether a server can answer at all, asked before any video is decoded."""

from __future__ import annotations

import difflib
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from tasks.answers.client import CallError, ChatClient, Completion
from tasks.answers.failures import fatal, is_wrong_model
from tasks.errors import AnswererError
from tasks.settings import VlmSettings

log = logging.getLogger(__name__)

MODELS_TIMEOUT_S = 5.0
PING_TIMEOUT_S = 30.0  # of a server that loads: it is asked again
TRIES = 3
PAUSE_S = 0.5
MODELS_SHOWN_MAX = 10
T = TypeVar("T")
_NO_LIST = frozenset({400, 404, 405, 422, 500, 501})  # servers that keep no list, or fail to make one, may still chat
_ALIVE = frozenset({400, 422, 429})  # refusals of a ping that are no refusal of the model


def preflight(client: ChatClient, settings: VlmSettings) -> None:
    """Raise AnswererError when the server is down, refuses the key or does not have the model."""
    try:
        probe(client, settings, TRIES)
    except CallError as error:
        raise unusable(error, settings) from error


def probe(client: ChatClient, settings: VlmSettings, tries: int = 1) -> None:
    """Raise CallError when the server cannot answer now, AnswererError when it refuses the key or the model.

    A list of models is believed. Where there is none a tiny chat decides, and where the list lacks the model too: some
    servers list what lies in their cache, and serve a folder that they were started with.
    """
    try:
        models = _patiently(lambda: client.models(_list_timeout_s(settings)), settings, tries)
    except CallError as error:
        _raise_if_final(error, settings)
        if error.status not in _NO_LIST:
            raise
        models = []
    if settings.model_id in models:
        return
    try:
        reply = _ping(client, settings, tries)
    except CallError as error:
        if models:
            raise _wrong_model(models, settings) from error
        _raise_if_final(error, settings)
        if error.status not in _ALIVE:
            raise
        return
    if models and not reply.model.startswith(f"{settings.model_id}@"):  # a mere echo of the name proves nothing
        raise _wrong_model(models, settings)


def probe_own(client: ChatClient, settings: VlmSettings) -> None:
    """The same for a server that we started, by a tiny chat alone: in a list its only model may have any name."""
    try:
        _ping(client, settings, 1, min(PING_TIMEOUT_S, settings.request_timeout_s))
    except CallError as error:
        _raise_if_final(error, settings)
        if error.status == 500:  # some models fail without a picture
            client.models(_list_timeout_s(settings))
        elif error.status not in _ALIVE:
            raise


def _list_timeout_s(settings: VlmSettings) -> float:
    return min(MODELS_TIMEOUT_S, settings.request_timeout_s)


def _raise_if_final(error: CallError, settings: VlmSettings) -> None:
    if error.status in (401, 403) or is_wrong_model(error):
        raise fatal(error, settings) from error


def _ping(client: ChatClient, settings: VlmSettings, tries: int, timeout_s: float | None = None) -> Completion:
    """A tiny chat: any reply will do."""
    body = {"model": settings.model_id, "messages": [{"role": "user", "content": "ping"}], "max_tokens": 1}
    return _patiently(lambda: client.chat(body, timeout_s), settings, tries)


def _patiently(call: Callable[[], T], settings: VlmSettings, tries: int) -> T:
    """A few tries: a server that is just starting refuses connections for a moment."""
    for _ in range(tries - 1):
        try:
            return call()
        except CallError as error:
            if error.status is not None and error.status not in (408, 429) and error.status < 500:
                raise
            log.info("%s: %s; trying again", settings.api_base, error)
            time.sleep(min(PAUSE_S, settings.retry_backoff_s))
    return call()


def unusable(error: CallError, settings: VlmSettings) -> AnswererError:
    """Why the server cannot be used, in words."""
    wanted = f"an OpenAI-compatible server at {settings.api_base}"
    if error.refused:
        return AnswererError(
            wanted,
            str(error),
            f"start it, e.g. `vllm serve {settings.model_id} --port 8000`, have it started with --vlm.auto_serve, "
            "or pass --vlm.api_base=URL",
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
