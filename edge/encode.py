"""Pictures as they are sent: only what the policy looks at and no larger, as JPEG, off the control thread."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from edge.resize import shrink
from serving.wire.images import Image, encode_image

HELPED_PIXELS_MIN = 100_000  # smaller pictures are encoded sooner than handed to another thread


class Encoder:
    """Encodes the cameras of a moment, large ones at the same time."""

    def __init__(self, cameras: Mapping[str, str], sizes: Mapping[str, tuple[int, int]], quality: int) -> None:
        """`cameras`: the policy's key -> the robot's name. `sizes`: (height, width) that the server wants of a key."""
        self._cameras, self._sizes, self._quality = dict(cameras), dict(sizes), quality
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="edge-encode") if len(cameras) > 1 else None

    def encode(self, images: Mapping[str, np.ndarray]) -> dict[str, Image]:
        """Each camera by the policy's key. Raises MessageError for what is no uint8 RGB picture."""
        keys = list(self._cameras)
        helped = keys[1::2] if self._pool is not None and self._large(images) else []
        waiting = {key: self._pool.submit(self._one, key, images) for key in helped} if self._pool else {}
        mine = {key: self._one(key, images) for key in keys if key not in waiting}
        return {key: mine[key] if key in mine else waiting[key].result() for key in keys}

    def close(self) -> None:
        """End the threads. Twice is once."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _one(self, key: str, images: Mapping[str, np.ndarray]) -> Image:
        picture = images[self._cameras[key]]
        size = self._sizes.get(key)
        if size is not None and size[0] < picture.shape[0] and size[1] < picture.shape[1]:  # never stretched
            picture = shrink(picture, *size)
        return encode_image(picture, self._quality)

    def _large(self, images: Mapping[str, np.ndarray]) -> bool:
        return any(images[name].size >= HELPED_PIXELS_MIN * 3 for name in self._cameras.values())
