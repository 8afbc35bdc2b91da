"""Questions as chat messages: pictures and clips first, as the bytes they are, and the prompt last."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Literal

import prompts
from tasks.answers.byte_cache import ByteCache
from tasks.answers.question import Clip, Picture, Question
from tasks.errors import AnswererError, VideoError

REPLY_CHARS_MAX = 4000  # of a bad reply that is shown to the model again
URL_BYTES_MAX = 64 * 2**20  # describe and segment show the same sheets and clips: they are encoded once

Message = dict[str, Any]

_urls: ByteCache[str] = ByteCache(URL_BYTES_MAX)


def prompt_text(question: Question) -> str:
    """The prompt with its inputs. Raises AnswererError when a replaced prompt file cannot be filled."""
    try:
        return prompts.render(question.name, **question.inputs)
    except (OSError, KeyError, IndexError, ValueError) as error:
        given = ", ".join(f"{{{key}}}" for key in question.inputs) or "none"
        raise AnswererError(
            f"a prompt file {question.name} with the placeholders {given}",
            f"{type(error).__name__}: {error}",
            f"correct the file named by {prompts.OVERRIDE_PREFIX}{question.name.upper()}, braces of JSON doubled",
        ) from error


def user_message(
    text: str, pictures: Sequence[Picture], clips: Sequence[Clip] = (), video_as: Literal["data", "file"] = "data"
) -> Message:
    """The question: each picture and clip behind its caption, then the text.

    `video_as`: "data" sends clips inside the request, "file" as paths that the server can read.
    """
    content: list[dict[str, Any]] = []
    for picture in pictures:
        content += _said(picture.caption)
        content.append({"type": "image_url", "image_url": {"url": _picture_url(picture)}})
    for clip in clips:
        content += _said(clip.caption)
        url = clip.path.resolve().as_uri() if video_as == "file" else _clip_url(clip)
        content.append({"type": "video_url", "video_url": {"url": url}})
    content.append({"type": "text", "text": text})
    return {"role": "user", "content": content}


def _said(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}] if text else []


def _picture_url(picture: Picture) -> str:
    return _urls.get(picture.digest) or _data_url(picture.digest, "image/jpeg", picture.jpeg)


def _clip_url(clip: Clip) -> str:
    if known := _urls.get(clip.digest):
        return known
    try:
        content = clip.path.read_bytes()
    except OSError as error:
        raise VideoError(
            f"the clip {clip.path}", f"{type(error).__name__}: {error}", "run again: it is cut again"
        ) from error
    return _data_url(clip.digest, "video/mp4", content)


def _data_url(key: str, media: str, content: bytes) -> str:
    url = f"data:{media};base64,{base64.b64encode(content).decode('ascii')}"
    return _urls.put(key, url, len(url))


def correction(reply: str, problem: str) -> list[Message]:
    """The turns that show a bad reply to the model and ask for a better one."""
    return [
        {"role": "assistant", "content": reply[:REPLY_CHARS_MAX].strip() or "(nothing)"},
        {
            "role": "user",
            "content": f"That reply cannot be used: {problem}. Answer again with the bare JSON object only.",
        },
    ]
