"""What may be said beyond schema version 1. Each feature is used only where both sides have named it."""

from __future__ import annotations

from collections.abc import Iterable

EVENTS = "events"  # refusals and endings come as EVENT messages
TAG = "tag"  # messages carry the session's tag behind the header
REPLICA = "replica"  # data goes to one replica by its id
DEADLINE = "deadline"  # requests say how long the robot's buffer lasts
ONE_FORM = "one_form"  # chunks come in the form that the client asked for, not in both
F16 = "f16"  # chunks may come as half floats
RESIZE = "resize"  # the server says which picture sizes it wants
HISTORY = "history"  # observations carry the last frames
RESUME = "resume"  # a live session is replaced only by who holds its token

ALL = (EVENTS, TAG, REPLICA, DEADLINE, ONE_FORM, F16, RESIZE, HISTORY, RESUME)


def agreed(ours: Iterable[str], theirs: Iterable[str]) -> frozenset[str]:
    """Features that both sides know."""
    return frozenset(ours) & frozenset(theirs)
