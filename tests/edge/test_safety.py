"""What may be sent to a robot, and what is sent when there is nothing."""

from __future__ import annotations

import timeit

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import ChunkError, SettingsError
from edge.robots.base import RobotFeatures
from edge.safety import Fallback, Limits, check_chunk, check_limits, limit
from edge.settings import SafetySettings

ARM = ("pan.pos", "lift.pos", "gripper.pos")
BASE = ("x.vel", "y.vel", "theta.vel")
MIXED = ("pan.pos", "x.vel", "gripper.pos", "y.vel")


def features(names: tuple[str, ...] = ARM, low=None, high=None) -> RobotFeatures:
    return RobotFeatures("made", names, names, action_min=low, action_max=high)


def limits(names: tuple[str, ...] = ARM, **settings) -> Limits:
    return Limits(SafetySettings(**settings), features(names), names)


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


# --- chunks ------------------------------------------------------------------------------------------------------


def test_a_chunk_of_finite_numbers_is_fine():
    rows = np.zeros((50, 7), np.float32)
    check_chunk(rows, rows, 7, 50)
    check_chunk(rows, None, 7, 64)
    check_chunk(rows.astype(np.float16), None, 7, 50)
    check_chunk(rows[:1], rows[:1], 7, 50)


@pytest.mark.parametrize(
    ("robot", "model", "said"),
    [
        (None, None, "got: none"),
        (np.zeros((50, 6), np.float32), None, r"want chunk_robot float32 \(1 to 50, 7\)\n  got: \(50, 6\)"),
        (np.zeros((50, 8), np.float32), None, r"got: \(50, 8\)"),
        (np.zeros((51, 7), np.float32), None, r"got: \(51, 7\)"),
        (np.zeros((0, 7), np.float32), None, r"got: \(0, 7\)"),
        (np.zeros(7, np.float32), None, r"got: float32 \(7,\)"),
        (np.zeros((1, 50, 7), np.float32), None, r"got: float32 \(1, 50, 7\)"),
        (np.zeros((50, 7), np.int32), None, r"got: int32 \(50, 7\)"),
        (np.zeros((50, 7), np.float64), None, "got: float64"),
        (np.zeros((50, 7), np.float32), np.zeros((50, 6), np.float32), "want chunk_model"),
        (np.zeros((50, 7), np.float32), np.zeros((49, 7), np.float32), "got: 49 and 50"),
        (np.zeros((50, 7), np.float32), np.zeros((50, 7), bool), "got: bool"),
    ],
)
def test_a_chunk_of_another_shape_is_refused(robot, model, said):
    with pytest.raises(ChunkError, match=said):
        check_chunk(robot, model, 7, 50)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", ["chunk_robot", "chunk_model"])
def test_a_number_that_is_none_is_refused_and_named(value, which):
    chunks = {"chunk_robot": np.zeros((50, 7), np.float32), "chunk_model": np.zeros((50, 7), np.float32)}
    chunks[which][41, 3] = value
    with pytest.raises(ChunkError, match=rf"want finite numbers in {which}\n  got: {value} in row 41, column 3"):
        check_chunk(*chunks.values(), 7, 50)


# --- limits ------------------------------------------------------------------------------------------------------


def test_without_limits_everything_goes():
    none = limits()
    action = f32(1e30, -1e30, 0)
    near, given_way = limit(none, action, f32(0, 0, 0))
    assert near is action and given_way == ()
    check_limits(none, action[None], None)


def test_limits_are_of_robot_and_settings_together_in_the_order_of_the_policy():
    robot = features(ARM, low=f32(-10, -20, 0), high=f32(10, np.inf, 100))
    order = ("gripper.pos", "pan.pos", "lift.pos")
    both = Limits(SafetySettings(range={"pan.pos": (-5, 50), "lift": (-90, 90)}, step_max={"pan": 2}), robot, order)
    assert both.low.tolist() == [0, -5, -20]
    assert both.high.tolist() == [100, 10, 90]
    assert both.step.tolist() == [np.inf, 2, np.inf]
    assert both.low.dtype == both.high.dtype == both.step.dtype == np.float32


def test_limits_that_a_robot_does_not_know_are_none():
    unknown = Limits(SafetySettings(), features(ARM, low=f32(np.nan, -np.inf, 0)), ARM)
    assert unknown.low.tolist() == [-np.inf, -np.inf, 0] and unknown.high.tolist() == [np.inf] * 3


@pytest.mark.parametrize("setting", [{"range": {"grippr.pos": (0, 1)}}, {"step_max": {"grippr.pos": 1}}])
def test_a_joint_that_is_none_is_refused_with_the_nearest(setting):
    with pytest.raises(SettingsError, match=r"got: grippr.pos\n  do: did you mean gripper.pos\?"):
        limits(**setting)


def test_a_name_without_its_ending_must_mean_one_joint():
    names = ("wheel.pos", "wheel.vel")
    assert limits(names, step_max={"wheel.vel": 1}).step.tolist() == [np.inf, 1]
    with pytest.raises(SettingsError, match=r"did you mean wheel.pos, wheel.vel\?"):
        limits(names, step_max={"wheel": 1})
    with pytest.raises(SettingsError, match=r"pan\.pos twice"):
        limits(step_max={"pan": 1, "pan.pos": 2})


def test_ranges_that_share_nothing_are_refused():
    with pytest.raises(SettingsError, match=r"want safety.range.lift.pos to share something with .* \[-20, 20\]"):
        Limits(SafetySettings(range={"lift": (90, 180)}), features(low=f32(-10, -20, 0), high=f32(10, 20, 100)), ARM)


def test_a_robot_with_a_limit_too_few_is_refused():
    with pytest.raises(SettingsError, match="want 3 limits of made"):
        Limits(SafetySettings(), features(low=f32(0, 0)), ARM)


@pytest.mark.parametrize(
    ("action", "last", "near", "given_way"),
    [
        (f32(1, 2, 3), f32(0, 2, 3), (1, 2, 3), ()),
        (f32(99, 2, 3), f32(9, 2, 3), (10, 2, 3), (0,)),
        (f32(-99, 2, 3), f32(-9, 2, 3), (-10, 2, 3), (0,)),
        (f32(0, 9, 3), f32(0, 2, 3), (0, 4, 3), (1,)),
        (f32(0, -9, 3), f32(0, 2, 3), (0, 0, 3), (1,)),
        (f32(99, 9, 3), f32(0, 2, 3), (10, 4, 3), (0, 1)),
        (f32(99, 9, 3), None, (10, 9, 3), (0,)),  # nothing was executed: there is no step
        (f32(1, 2, 99), f32(1, 2, 20), (1, 2, 10), (2,)),
        (f32(1, 2, 99), f32(1, 2, 30), (1, 2, 20), (2,)),  # it stands out of range: it comes back step by step
    ],
)
def test_what_is_beyond_a_limit_goes_to_it(action, last, near, given_way):
    within = limits(range={"pan": (-10, 10), "gripper": (0, 10)}, step_max={"lift": 2, "gripper": 10})
    before = action.copy()
    found, joints = limit(within, action, last)
    assert found.tolist() == list(near) and joints == given_way
    assert found.dtype == np.float32 and action.tolist() == before.tolist()


def test_what_was_sent_last_may_be_unknown_for_a_joint():
    """A robot that reports rubbish as sent must not get rubbish back."""
    near, joints = limit(
        limits(range={"pan": (-10, 10)}, step_max={"pan": 2, "lift": 2}), f32(11, 9, 3), f32(np.nan, 2, 3)
    )
    assert near.tolist() == [10, 4, 3] and joints == (0, 1)


NUMBERS = st.floats(-1e4, 1e4, width=32)
THREE = st.tuples(NUMBERS, NUMBERS, NUMBERS)


@given(THREE, THREE)
def test_whatever_is_asked_no_joint_moves_further_than_a_step(action, last):
    within = limits(range={"pan": (-10, 10), "lift": (-10, 10)}, step_max={"lift": 2, "gripper": 0.5})
    near, joints = limit(within, f32(*action), f32(*last))
    assert -10 <= near[0] <= 10
    moved = np.abs(near.astype(np.float64) - f32(*last))
    assert (moved[1:] <= np.array([2, 0.5]) + 1e-3).all()
    if abs(last[1]) <= 10:
        assert -10 <= near[1] <= 10
    kept = [i for i in range(3) if i not in joints]
    assert near[kept].tolist() == f32(*action)[kept].tolist()


WHOLE = st.tuples(*[st.integers(-10_000, 10_000)] * 3)  # no rounding between what is allowed and what is not


@given(st.lists(WHOLE, min_size=1, max_size=8), WHOLE | st.none())
def test_a_chunk_is_refused_exactly_when_a_row_would_have_to_give_way(rows, last):
    """Stepping through it, each row as executed before the next."""
    within = limits(range={"pan": (-5000, 5000)}, step_max={"lift": 9000, "gripper": 5000})
    array = np.array(rows, np.float32)
    before = None if last is None else f32(*last)
    gives_way, at = False, before
    for row in array:
        near, _ = limit(within, row, at)
        gives_way |= bool((near != row).any())
        at = row
    if gives_way:
        with pytest.raises(ChunkError):
            check_limits(within, array, before)
    else:
        check_limits(within, array, before)


def test_a_chunk_that_is_refused_says_which_joint_and_by_how_much():
    within = limits(range={"pan": (-10, 10)}, step_max={"lift": 2})
    rows = np.zeros((5, 3), np.float32)
    check_limits(within, rows, f32(0, 0, 0))
    rows[3, 0] = 11
    with pytest.raises(ChunkError, match=r"want pan.pos within \[-10, 10\]\n  got: 11 in row 3\n  do: .*clamp"):
        check_limits(within, rows, None)
    rows[3, 0] = 0
    rows[2, 1] = 2.5
    with pytest.raises(ChunkError, match=r"want lift.pos to move at most 2 in one step\n  got: 2.5 to row 2"):
        check_limits(within, rows, None)
    with pytest.raises(ChunkError, match="got: 9 to row 0"):
        check_limits(within, np.zeros((5, 3), np.float32), f32(0, 9, 0))


def test_a_step_that_is_just_allowed_is_not_refused_for_rounding():
    within = limits(step_max={"pan": 0.1})
    rows = np.zeros((200, 3), np.float32)
    rows[:, 0] = 100 + np.arange(200, dtype=np.float32) * np.float32(0.1)
    check_limits(within, rows, f32(100 - 0.1, 0, 0))


# --- nothing to send ---------------------------------------------------------------------------------------------

NOTHING, LAST4 = None, (1.0, 2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("kind", "names", "last", "starved_s", "sent", "source"),
    [
        ("hold", ARM, (1, 2, 3), 0.0, NOTHING, "hold"),
        ("hold", ARM, (1, 2, 3), 99.0, NOTHING, "hold"),
        ("repeat_last", ARM, (1, 2, 3), 0.5, (1, 2, 3), "repeat_last"),
        ("repeat_last", ARM, (1, 2, 3), 0.51, NOTHING, "hold"),
        ("stop", ARM, (1, 2, 3), 0.0, (1, 2, 3), "stop"),
        # a velocity joint that hears nothing keeps moving: it is told to stop, whatever the fallback
        ("hold", BASE, (1, 2, 3), 0.0, (0, 0, 0), "stop"),
        ("repeat_last", BASE, (1, 2, 3), 0.5, (1, 2, 3), "repeat_last"),
        ("repeat_last", BASE, (1, 2, 3), 0.51, (0, 0, 0), "stop"),
        ("stop", BASE, (1, 2, 3), 0.0, (0, 0, 0), "stop"),
        ("zero", BASE, (1, 2, 3), 0.0, (0, 0, 0), "stop"),
        # velocities to zero, positions where they were sent last
        ("hold", MIXED, LAST4, 0.0, (1, 0, 3, 0), "stop"),
        ("repeat_last", MIXED, LAST4, 0.1, LAST4, "repeat_last"),
        ("repeat_last", MIXED, LAST4, 0.6, (1, 0, 3, 0), "stop"),
        ("stop", MIXED, LAST4, 0.0, (1, 0, 3, 0), "stop"),
        # before the first action nobody knows where positions are to be held
        *[(kind, ARM, None, 0.0, NOTHING, "hold") for kind in ("hold", "repeat_last", "stop")],
        *[(kind, MIXED, None, 0.0, NOTHING, "hold") for kind in ("hold", "repeat_last", "stop")],
        *[(kind, BASE, None, 0.0, (0, 0, 0), "stop") for kind in ("hold", "repeat_last", "stop", "zero")],
    ],
)  # fmt: skip
def test_each_joint_gets_what_is_safe_for_it(kind, names, last, starved_s, sent, source):
    given_last = None if last is None else f32(*last)
    action, said = Fallback(kind, names, 0.5).action(given_last, starved_s)
    assert said == source
    assert action is None if sent is None else action.tolist() == list(sent)
    if action is not None:
        assert action.dtype == np.float32 and action.shape == (len(names),)
        action[:] = 99  # it is the caller's own
        assert given_last is None or given_last.tolist() == list(last)


@pytest.mark.parametrize("names", [ARM, MIXED, ("velocity",), ("x.velocity",)])
def test_zero_is_refused_where_it_would_be_a_position(names):
    with pytest.raises(SettingsError, match=f"got: {names[0]}\n  do: set --inference.fallback=stop"):
        Fallback("zero", names, 0.5)


def test_limiting_an_action_takes_microseconds():
    """The fastest of several rounds: what the code costs, whatever else the machine does."""
    names = tuple(f"joint{i}.pos" for i in range(30))
    within = limits(names, range={n: (-1, 1) for n in names}, step_max={n: 0.1 for n in names})
    action, last = np.full(30, 2, np.float32), np.zeros(30, np.float32)
    assert min(timeit.repeat(lambda: limit(within, action, last), number=200, repeat=15)) / 200 * 1e6 < 25
