"""Makes the pictures of a question fit a server: fewer and smaller, without leaving out any stretch of time.

A contact sheet that is left out takes its part of the episode with it, and a model then invents what happened there. So
sheets are first put together, one below the other (rows are read from top to bottom anyway), then scaled down, and only
left out when the times printed on them could no longer be read. Whatever a server counts, that helps: pictures, tokens
for each picture, or tokens for each pixel.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from tasks.answers.byte_cache import ByteCache
from tasks.answers.question import Picture

PAGES_MAX = 4  # pictures put together in one: a model scales very high ones down by itself
SCALE_MIN = 0.5  # of both sides: printed times of 20 pixels height are 10 pixels high then, the least that can be read
SHRINK = math.sqrt(0.5)  # of both sides: half the pixels
QUALITY = 88  # one more generation of JPEG must not blur the printed times
CACHE_BYTES_MAX = 32 * 2**20

Group = tuple[Picture, ...]  # a picture with its caption, and the ones after it that have none


@dataclass(frozen=True)
class Reduced(Picture):
    """A picture made of others."""

    scale: float = 1.0  # of both sides, against the pictures it was made of
    pages: int = 1


_cache: ByteCache[Reduced] = ByteCache(CACHE_BYTES_MAX)


def fit(
    pictures: Sequence[Picture], max_images: int | None, max_pixels: int | None, scale: bool = True
) -> tuple[Picture, ...]:
    """At most `max_images` pictures of at most `max_pixels` each; the same objects where nothing is to be done.

    `scale=False`: the pictures must stay what they are, since the answer counts their pixels. Too many are thinned.
    """
    kept = tuple(pictures)
    if max_images is not None and len(kept) > max_images:
        kept = _together(kept, max_images, _pages_max(kept, max_pixels)) if scale else _thinned(kept, max_images)
    if max_pixels is None or not scale:
        return kept
    return tuple(_scaled(p, max_pixels) for p in kept)


def smaller(pictures: Sequence[Picture], scale: bool = True) -> tuple[Picture, ...] | None:
    """About half the pictures and half the pixels, for a server that found them too much. None: no more to spare."""
    kept = tuple(pictures)
    if scale and kept and round(min(_scale(p) for p in kept) * SHRINK, 3) >= SCALE_MIN:
        chunks = [chunk for group in _groups(kept) for chunk in _pairs(group)]
        less = _all_made(chunks if len(chunks) < len(kept) else _pairs(kept), SHRINK)
        if less is not None:
            return less
    return _thinned(kept, (len(kept) + 1) // 2) if len(kept) > 2 else None


# ---------------------------------------------------------------- leaving out


def _thinned(pictures: Group, count: int) -> Group:
    """So many of them, evenly, with both ends; a caption is said before the first picture kept of those it is about."""
    last = len(pictures) - 1
    wanted = {round(i * last / (count - 1)) for i in range(count)} if count > 1 else {last // 2}
    kept: list[Picture] = []
    caption = ""
    for i, picture in enumerate(pictures):
        caption = picture.caption or caption
        if i in wanted:
            kept.append(picture if picture.caption == caption else replace(picture, caption=caption))
            caption = ""
    return tuple(kept)


# ---------------------------------------------------------------- putting together


def _groups(pictures: Group) -> list[Group]:
    groups: list[list[Picture]] = []
    for picture in pictures:
        if picture.caption or not groups:
            groups.append([])
        groups[-1].append(picture)
    return [tuple(g) for g in groups]


def _chunks(pictures: Group, count: int) -> list[Group]:
    """So many neighbourhoods of nearly equal size."""
    cuts = [round(i * len(pictures) / count) for i in range(count + 1)]
    return [pictures[a:b] for a, b in pairwise(cuts)]


def _pairs(group: Group) -> list[Group]:
    """Neighbours by twos; those that are several pictures already stay alone."""
    chunks = _chunks(group, (len(group) + 1) // 2)
    return chunks if max(sum(_pages(p) for p in c) for c in chunks) <= PAGES_MAX else [(p,) for p in group]


def _pages_max(pictures: Group, max_pixels: int | None) -> int:
    """How many can be put together and still be read when scaled down to the limit."""
    if max_pixels is None:
        return PAGES_MAX
    largest = max(p.width * p.height for p in pictures)
    return max(1, min(PAGES_MAX, int(max_pixels / (SCALE_MIN**2 * largest))))


def _together(pictures: Group, count: int, pages_max: int) -> Group:
    """At most `count` pictures that show all there was, first within captions; what cannot be read then is left out."""
    groups = _groups(pictures)
    for pages in range(2, pages_max + 1):
        if sum(math.ceil(len(g) / pages) for g in groups) <= count:
            chunks = [c for g in groups for c in _chunks(g, math.ceil(len(g) / pages))]
            break
    else:
        fewer = _thinned(pictures, count * pages_max) if len(pictures) > count * pages_max else pictures
        chunks = _chunks(fewer, count)
    return _all_made(chunks, 1.0) or _thinned(pictures, count)


def _all_made(chunks: Sequence[Group], factor: float) -> Group | None:
    """A picture of each chunk; None when there is one that cannot be made."""
    made: list[Picture] = []
    for chunk in chunks:
        if (picture := _made(chunk, factor)) is None:
            return None
        made.append(picture)
    return tuple(made)


def _caption(chunk: Group) -> str:
    """What is said before several pictures in one."""
    if not any(p.caption for p in chunk[1:]):
        return chunk[0].caption
    parts = (f"part {i + 1}: {p.caption or 'more of the same'}" for i, p in enumerate(chunk))
    return f"{len(chunk)} parts in one picture, from top to bottom: " + "; ".join(parts)


# ---------------------------------------------------------------- pixels


def _scale(picture: Picture) -> float:
    return picture.scale if isinstance(picture, Reduced) else 1.0


def _pages(picture: Picture) -> int:
    return picture.pages if isinstance(picture, Reduced) else 1


def _scaled(picture: Picture, max_pixels: int) -> Picture:
    """The picture, with fewer pixels where it has too many."""
    factor = math.sqrt(max_pixels / (picture.width * picture.height))
    return picture if factor >= 1 else _made((picture,), factor) or picture


def _made(chunk: Group, factor: float) -> Picture | None:
    """One picture of several, scaled. None when one of them cannot be read."""
    if len(chunk) == 1 and factor == 1:
        return chunk[0]
    key = (factor, *(p.digest for p in chunk))
    picture = _cache.get(key)
    if picture is None:
        drawn = _drawn(chunk, factor)
        if drawn is None:
            return None
        picture = _cache.put(key, drawn, len(drawn.jpeg))
    return replace(picture, caption=_caption(chunk))


def _drawn(chunk: Group, factor: float) -> Reduced | None:
    """The pictures one below the other, left sides aligned."""
    from PIL import Image

    sizes = [(max(1, int(p.width * factor)), max(1, int(p.height * factor))) for p in chunk]
    page = Image.new("RGB", (max(w for w, _ in sizes), sum(h for _, h in sizes)))
    top = 0
    try:
        for picture, size in zip(chunk, sizes, strict=True):
            with Image.open(io.BytesIO(picture.jpeg)) as image:
                shown = image.convert("RGB")
            page.paste(shown if shown.size == size else shown.resize(size, Image.Resampling.LANCZOS), (0, top))
            top += size[1]
    except OSError:  # not a picture that can be read here: it is sent as it is
        return None
    out = io.BytesIO()
    page.save(out, "JPEG", quality=QUALITY)
    scale, pages = factor * min(_scale(p) for p in chunk), sum(_pages(p) for p in chunk)
    return Reduced(out.getvalue(), page.width, page.height, scale=scale, pages=pages)
