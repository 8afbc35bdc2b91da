"""What the numbers of a box or point mean: each family of models counts in its own way, rows in one."""

from __future__ import annotations

import re
from typing import Literal

from tasks.settings import AnnotateSettings

Convention = Literal["pixel", "norm1000", "norm1"]

# Model names and the convention of their grounding data. Whatever is not here counts pixels of the picture it was sent.
_FAMILIES: tuple[tuple[re.Pattern[str], Convention], ...] = (
    (re.compile(r"qwen-?3|gemini|internvl|glm-4\.[156]v", re.IGNORECASE), "norm1000"),
)


def model_convention(settings: AnnotateSettings) -> Convention:
    """How the model of these settings counts: as set, else by its name."""
    wanted = settings.vqa.coordinates
    if wanted != "auto":
        return wanted
    return next((c for names, c in _FAMILIES if names.search(settings.vlm.model_id)), "pixel")
