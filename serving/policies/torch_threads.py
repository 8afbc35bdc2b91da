"""How many threads torch may use for one operation, by who calls it.

The pools around the policy work on many requests at a time, each a matter of microseconds: split over all cores, an
operation waits for cores that other requests hold (measured on two busy cores: 15 ms in place of 0.5 ms).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Within, operations of this thread are split into at most `count`; other threads keep their number.

    torch hands the number set last to threads that have not used it yet: whoever minds says their own.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
