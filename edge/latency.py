"""How long answers take: a window that forgets, so that one slow answer does not slow a whole run.

Percentiles go by the sample of that rank, rounded down. So of up to 101 samples the slowest alone never decides p99, of
up to 21 never p95: one answer that took 5 s is one answer. Among very few samples a rank says little; there the
slowest counts, but as no more than FEW_FACTOR times the median.
"""

from __future__ import annotations

import math
import threading
from collections import deque

SIZE = 100  # samples
AGE_MAX_S = 60.0
KEPT = 8  # newest samples that are never too old: a robot that was paused still knows something

FEW = 8  # fewer samples than this are few
FEW_FACTOR = 3.0


class LatencyWindow:
    """The last samples. Any thread."""

    def __init__(self, size: int = SIZE, age_max_s: float = AGE_MAX_S) -> None:
        self._age_max_s = age_max_s
        self._lock = threading.Lock()
        self._samples: deque[tuple[float, float]] = deque(maxlen=size)  # when, seconds

    def add(self, seconds: float, now_s: float) -> None:
        """Note how long one answer took. Anything but a finite number from 0 on is ignored."""
        if math.isfinite(seconds) and seconds >= 0:
            with self._lock:
                self._samples.append((now_s, float(seconds)))

    def percentile(self, q: float, now_s: float) -> float:
        """Seconds that a share `q` (0 … 1) of the answers stays within; 0.0 when there are no samples."""
        with self._lock:
            samples = self._samples
            while len(samples) > KEPT and now_s - samples[0][0] > self._age_max_s:
                samples.popleft()
            ordered = sorted(seconds for _, seconds in samples)
        if not ordered:
            return 0.0
        last = len(ordered) - 1
        said = ordered[math.floor(min(1.0, max(0.0, q)) * last)]
        if len(ordered) < FEW and q * len(ordered) > last:  # no other sample has the share below it
            said = max(said, min(ordered[last], FEW_FACTOR * ordered[last // 2]))
        return said

    @property
    def count(self) -> int:
        """Samples that are held."""
        return len(self._samples)

    def clear(self) -> None:
        """Forget all: another server answers."""
        with self._lock:
            self._samples.clear()
