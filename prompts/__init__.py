"""The questions asked of a model, one text file each, with `str.format` placeholders."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from importlib.resources import files

OVERRIDE_PREFIX = "CUEBOOK_PROMPT_"  # CUEBOOK_PROMPT_VQA_BBOX=/path/file.txt replaces vqa_bbox.txt


def names() -> list[str]:
    """All prompt names."""
    return sorted(f.name.removesuffix(".txt") for f in files(__name__).iterdir() if f.name.endswith(".txt"))


def text(name: str) -> str:
    """The prompt's text: the file named by its environment variable, else the one that is shipped."""
    override = os.environ.get(OVERRIDE_PREFIX + name.upper())
    if override:
        with open(override, encoding="utf-8") as f:
            return f.read()
    return _shipped(name)


@lru_cache(maxsize=64)
def _shipped(name: str) -> str:
    return files(__name__).joinpath(f"{name}.txt").read_text(encoding="utf-8")


def render(name: str, **inputs: object) -> str:
    """The prompt with its placeholders filled."""
    return text(name).format(**inputs)


def digest(name: str) -> str:
    """Identity of the prompt's text, part of the cache key of each phase that uses it."""
    return hashlib.blake2b(text(name).encode(), digest_size=8).hexdigest()
