"""What makes two questions the same: a digest of all that shapes an answer."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from pydantic import BaseModel

import prompts
from tasks.answers.question import Clip, Question

DIGEST_BYTES = 16
FORMATS_REMEMBERED = 64  # answer classes whose schema digest is kept


def question_digest(question: Question, model: str) -> str:
    """Identity of all that shapes an answer: prompt, inputs, pictures, clips, answer schema, model."""
    parts = [
        question.name,
        json.dumps(dict(question.inputs), sort_keys=True, default=str),
        prompts.digest(question.name),
        *(f"{p.digest}:{p.caption}" for p in question.pictures),
        *(_clip_identity(c) for c in question.clips),
        _schema_digest(question.answer),
        model,
    ]
    return blake(json.dumps(parts).encode())


def batch_digests(questions: Sequence[Question], model: str) -> list[tuple[str, int]]:
    """The digest of each question, and how many of the same came before it: two dark cameras are asked the same."""
    seen: Counter[str] = Counter()
    found = []
    for question in questions:
        digest = question_digest(question, model)
        found.append((digest, seen[digest]))
        seen[digest] += 1
    return found


def blake(data: bytes) -> str:
    """Short content digest."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


def _clip_identity(clip: Clip) -> str:
    return f"clip:{clip.digest}:{clip.fps:g}:{clip.caption}"


@lru_cache(maxsize=FORMATS_REMEMBERED)
def _schema_digest(answer: type[BaseModel]) -> str:
    return blake(json.dumps(answer.model_json_schema(), sort_keys=True).encode())
