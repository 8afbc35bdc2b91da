"""Which camera a phase looks at."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.errors import EpisodeError
from tasks.settings import AnnotateSettings


def default_camera(settings: AnnotateSettings, cameras: Sequence[str]) -> str | None:
    """The camera named in the settings, else the first; None when there is none. EpisodeError on an unknown name."""
    named = settings.vlm.camera_key
    if named is None:
        return cameras[0] if cameras else None
    return known_camera(named, cameras, "vlm.camera_key")


def known_camera(name: str, cameras: Sequence[str], setting: str) -> str:
    """The name itself, or EpisodeError when there is no such camera."""
    if name in cameras:
        return name
    raise EpisodeError(
        f"want a colour video camera named by {setting}",
        repr(name),
        f"use one of {', '.join(cameras)}" if cameras else "this dataset has no colour video camera",
    )
