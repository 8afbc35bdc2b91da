"""What a chat export is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from tasks.dataset.frames import Still
from tasks.errors import SettingsError
from tasks.language.chat_forms import FORMS

STRIDE_DEFAULT_S = 1.0  # neighbouring frames teach a model nothing new
QUALITY_DEFAULT = 90  # of JPEG
OWN_WIDTH = 1 << 16  # pixels: wider than any camera
SHARES_TOLERANCE = 1e-6


@dataclass(frozen=True)
class ChatOptions:
    """Which frames become samples, and how they are written. Raises SettingsError on impossible ones."""

    form: str = "messages"  # see chat_forms
    episodes: tuple[int, ...] | None = None  # None: all
    every: int | None = None  # take every so many frames; None: by stride_s
    stride_s: float = STRIDE_DEFAULT_S
    moments: bool = True  # also take each frame on which something is asked or said, or on which a state begins
    limit: int | None = None  # samples at most, from the first episode on
    only_targets: bool = True  # leave out samples without words to learn: they teach a language model nothing
    components: tuple[str, ...] = ()  # of the blend; (): all
    split: Mapping[str, float] = field(default_factory=lambda: {"train": 1.0})  # file name -> share of the episodes
    seed: int = 0
    epoch: int = 0
    skip_ambiguous: bool = False  # leave out components whose rows contradict each other, instead of an error
    width_max: int | None = None  # pixels; None: as recorded
    quality: int = QUALITY_DEFAULT

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise SettingsError(f"want a form of {', '.join(FORMS)}", repr(self.form), "name one of them")
        if (self.every is not None and self.every < 1) or not self.stride_s > 0:
            got = f"every={self.every}, stride_s={self.stride_s}"
            raise SettingsError("want every of at least 1, or stride_s above 0", got, "every=1 takes all frames")
        if self.limit is not None and self.limit < 1:
            raise SettingsError("want a limit of at least 1", str(self.limit), "leave it out for all samples")
        if not 1 <= self.quality <= 100 or (self.width_max is not None and self.width_max < 1):
            got = f"quality={self.quality}, width_max={self.width_max}"
            raise SettingsError("want quality from 1 to 100 and a width_max above 0", got, "leave them out")
        if not self.split or any(not (math.isfinite(s) and s > 0) for s in self.split.values()):
            raise SettingsError("want shares above 0 in split", str(dict(self.split)), "write train:0.9,val:0.1")
        if abs(sum(self.split.values()) - 1) > SHARES_TOLERANCE:
            got = f"{sum(self.split.values()):g} in all"
            raise SettingsError("want shares in split that add up to 1", got, "write train:0.9,val:0.1")
        if wrong := [name for name in self.split if not name.replace("-", "").replace("_", "").isalnum()]:
            raise SettingsError("want split names of letters and digits", repr(wrong[0]), "they become file names")

    @property
    def still(self) -> Still:
        """How pictures are written."""
        return Still(width_max=self.width_max or OWN_WIDTH, quality=self.quality)

    def stride(self, fps: float) -> int:
        """Frames from one sample to the next."""
        return self.every if self.every is not None else max(1, round(self.stride_s * fps))

    def part_of(self, episode_index: int) -> str:
        """Which file an episode goes to: by a hash of its index alone, so that more episodes move none."""
        digest = blake2b(f"split:{self.seed}:{episode_index}".encode(), digest_size=8).digest()
        left = int.from_bytes(digest, "big") / 2.0**64
        for name, share in self.split.items():
            left -= share
            if left < 0:
                return name
        return name


def parse_split(text: str) -> dict[str, float]:
    """`train:0.9,val:0.1` as names and shares. Raises SettingsError."""
    shares: dict[str, float] = {}
    for word in text.split(","):
        name, colon, share = word.strip().partition(":")
        try:
            value = float(share)
        except ValueError:
            value = math.nan
        if not colon or not name or math.isnan(value) or name in shares:
            raise SettingsError("want --split like train:0.9,val:0.1", repr(text), "each name once, with its share")
        shares[name] = value
    return shares
