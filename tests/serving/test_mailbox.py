"""One slot: the newest observation wins, and what it replaced is counted once."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from serving.mailbox import Deposit, Mailbox
from serving.wire.header import Header


def deposit(seq: int, epoch: int = 1) -> Deposit:
    return Deposit(Header(1, 1, seq, 0, 0, epoch), b"body %d" % seq, 0.0)


def test_the_newest_wins_and_those_it_replaced_are_counted_once():
    mailbox = Mailbox()
    assert [mailbox.put(deposit(seq)) for seq in (1, 2, 3)] == [False, True, True]
    taken = mailbox.take()
    assert taken is not None and taken.deposit.header.seq_id == 3 and taken.superseded == 2
    assert mailbox.take() is None
    mailbox.put(deposit(4))
    taken = mailbox.take()
    assert taken is not None and taken.superseded == 0
    assert mailbox.superseded_total == 2


def test_an_observation_that_was_overtaken_on_the_way_does_not_replace_a_newer_one():
    mailbox = Mailbox()
    mailbox.put(deposit(5))
    assert not mailbox.put(deposit(4))
    taken = mailbox.take()
    assert taken is not None and taken.deposit.header.seq_id == 5 and taken.superseded == 0


def test_a_new_handshake_is_newer_than_any_number():
    mailbox = Mailbox()
    mailbox.put(deposit(900, epoch=1))
    mailbox.put(deposit(1, epoch=2))
    taken = mailbox.take()
    assert taken is not None and taken.deposit.header.session_epoch == 2


def test_clearing_throws_away_what_lies_there():
    mailbox = Mailbox()
    mailbox.put(deposit(1))
    assert mailbox.peek() is not None
    mailbox.clear()
    assert mailbox.peek() is None and mailbox.take() is None


@given(st.lists(st.integers(1, 50) | st.none(), max_size=60))
def test_every_observation_is_taken_or_counted_or_overtaken(steps: list[int | None]):
    """None takes; a number puts. Nothing vanishes, nothing is counted twice."""
    mailbox, taken, superseded, older, waiting = Mailbox(), 0, 0, 0, None
    for seq in steps:
        if seq is None:
            found = mailbox.take()
            assert (found.deposit.header.seq_id if found else None) == waiting
            if found is not None:
                taken += 1
                superseded += found.superseded
            waiting = None
        else:
            older += waiting is not None and seq < waiting
            mailbox.put(deposit(seq))
            waiting = seq if waiting is None else max(seq, waiting)
    last = mailbox.take()
    if last is not None:
        taken, superseded = taken + 1, superseded + last.superseded
    assert taken + superseded + older == sum(seq is not None for seq in steps)
    assert mailbox.superseded_total == superseded


def test_counting_and_taking_are_one_step():
    """Deposits race takes: each observation is either taken or counted as superseded by exactly one take."""
    mailbox, count, found = Mailbox(), 4000, []
    over = threading.Event()

    def take() -> None:
        while not over.is_set():
            if (taken := mailbox.take()) is not None:
                found.append(taken)

    takers = [threading.Thread(target=take) for _ in range(3)]
    for thread in takers:
        thread.start()
    for seq in range(1, count + 1):
        mailbox.put(deposit(seq))
    over.set()
    for thread in takers:
        thread.join()
    if (last := mailbox.take()) is not None:
        found.append(last)
    assert len(found) + sum(taken.superseded for taken in found) == count
