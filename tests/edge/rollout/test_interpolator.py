"""Several commands on the line from one action to the next."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge.rollout.interpolator import Interpolator


def commands(interpolator: Interpolator, actions: list[list[float]]) -> list[tuple[list[float], bool]]:
    """All that is sent for some actions."""
    sent = []
    for action in actions:
        assert interpolator.needs_action
        interpolator.add(np.array(action, np.float32))
        while (command := interpolator.next()) is not None:
            sent.append((command[0].tolist(), command[1]))
    return sent


def test_one_command_an_action_is_the_action():
    assert commands(Interpolator(), [[1.0], [3.0]]) == [([1.0], True), ([3.0], True)]


def test_four_commands_lie_on_the_line_and_the_last_is_the_policys_own():
    sent = commands(Interpolator(4), [[0.0, 8.0], [4.0, 0.0]])
    assert sent == [
        ([0.0, 8.0], True), ([1.0, 6.0], False), ([2.0, 4.0], False), ([3.0, 2.0], False), ([4.0, 0.0], True)
    ]  # fmt: skip


def test_after_a_reset_the_first_action_is_sent_as_it_is():
    interpolator = Interpolator(2)
    commands(interpolator, [[0.0], [1.0]])
    interpolator.add(np.array([5.0], np.float32))
    interpolator.reset()
    assert interpolator.needs_action and interpolator.next() is None
    assert commands(interpolator, [[9.0]]) == [([9.0], True)]


def test_nothing_new_means_nothing_to_send_and_the_line_goes_on_from_there():
    interpolator = Interpolator(2)
    commands(interpolator, [[0.0]])
    assert interpolator.next() is None
    assert commands(interpolator, [[1.0]]) == [([0.5], False), ([1.0], True)]


NUMBERS = st.floats(-1e4, 1e4, width=32)


@given(NUMBERS, NUMBERS, st.integers(1, 64))
def test_what_holds_for_both_ends_holds_on_the_way(start, end, multiplier):
    interpolator = Interpolator(multiplier)
    sent = np.array([c[0] for c, _ in commands(interpolator, [[start], [end]])], np.float32)
    low, high = min(start, end), max(start, end)
    assert (sent >= low).all() and (sent <= high).all()
    assert np.abs(np.diff(sent.astype(np.float64))).max(initial=0) <= high - low
    assert sent[-1] == np.float32(end) and len(sent) == 1 + multiplier
