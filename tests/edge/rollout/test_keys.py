"""Keys of a real (pseudo) terminal, and the terminal afterwards."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

import pytest

from edge.rollout.keys import HELD_MAX, NO_KEYS, Keyboard

WAIT_S = 10.0


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """(what a person types into, what the program reads)."""
    person, program = pty.openpty()
    yield person, program
    for fd in (person, program):
        os.close(fd)


@pytest.fixture
def keyboard(terminal) -> Iterator[Keyboard]:
    keyboard = Keyboard(terminal[1])
    keyboard.start()
    yield keyboard
    keyboard.stop()


def keys(keyboard: Keyboard, count: int) -> list[str]:
    """The next ones, however long they take."""
    found, end_s = [], time.monotonic() + WAIT_S
    while len(found) < count and time.monotonic() < end_s:
        found += keyboard.poll()
        time.sleep(0.005)
    return found


@pytest.mark.parametrize(
    "typed, names",
    [
        (b"sh", ["s", "h"]),
        (b" \t\r\n", ["space", "tab", "enter", "enter"]),
        (b"\x1b[C\x1b[D\x1bOC\x1b[A", ["right", "left", "right", "up"]),
        (b"\x1b[1;5Cs", ["right", "s"]),
        (b"\x1b[3~s", ["s"]),  # delete: no key of ours, and none of its bytes is one
        (b"\x1b", ["esc"]),
        ("öß字".encode(), ["ö", "ß", "字"]),
        (b"\x01\xffs", ["s"]),
    ],
)
def test_keys_have_names(terminal, keyboard, typed, names):
    assert keyboard.active
    os.write(terminal[0], typed)
    assert keys(keyboard, len(names)) == names


def test_escape_and_a_key_pressed_later_are_two(terminal, keyboard):
    os.write(terminal[0], b"\x1b")
    assert keys(keyboard, 1) == ["esc"]
    os.write(terminal[0], b"[")
    assert keys(keyboard, 1) == ["["]


def test_the_terminal_is_put_back_as_it_was(terminal):
    before = termios.tcgetattr(terminal[1])
    keyboard = Keyboard(terminal[1])
    keyboard.start()
    during = termios.tcgetattr(terminal[1])
    assert not during[3] & termios.ECHO and not during[3] & termios.ICANON and during[3] & termios.ISIG
    keyboard.stop()
    keyboard.stop()
    assert termios.tcgetattr(terminal[1]) == before and not keyboard.active
    keyboard.start()  # and it may begin again
    os.write(terminal[0], b"s")
    assert keys(keyboard, 1) == ["s"]
    keyboard.stop()


EXITS = {
    "forgets to stop": "",
    "raises": "raise ValueError",
    "is interrupted": "import signal; signal.raise_signal(signal.SIGINT)",
    "exits": "import sys; sys.exit(3)",
}


@pytest.mark.parametrize("how", EXITS.values(), ids=EXITS)
def test_the_terminal_is_put_back_however_the_process_ends(terminal, how):
    before = termios.tcgetattr(terminal[1])
    script = "from edge.rollout.keys import Keyboard\nk = Keyboard(); k.start(); assert k.active\n"
    process = subprocess.Popen([sys.executable, "-c", script + how], stdin=terminal[1], stderr=subprocess.PIPE)
    _, said = process.communicate(timeout=WAIT_S)
    assert b"AssertionError" not in said
    assert termios.tcgetattr(terminal[1]) == before


def test_without_a_terminal_there_are_no_keys():
    reading, writing = os.pipe()
    try:
        keyboard = Keyboard(reading)
        keyboard.start()
        assert not keyboard.active and keyboard.poll() == []
        keyboard.stop()
    finally:
        os.close(reading)
        os.close(writing)
    assert not NO_KEYS.active and NO_KEYS.poll() == []


def test_a_closed_standard_input_is_no_terminal():
    script = "from edge.rollout.keys import Keyboard\nk = Keyboard(); k.start(); assert not k.active; k.stop()"
    assert subprocess.run(["sh", "-c", f'exec {sys.executable} -c "{script}" <&-'], timeout=WAIT_S).returncode == 0


def test_a_terminal_that_goes_away_ends_the_keys_and_nothing_else():
    person, program = pty.openpty()
    keyboard = Keyboard(program)
    keyboard.start()
    os.close(person)
    keyboard._thread.join(WAIT_S)
    assert not keyboard._thread.is_alive() and keyboard.poll() == []
    keyboard.stop()
    os.close(program)


def test_keys_that_nobody_asks_for_are_forgotten(terminal, keyboard):
    os.write(terminal[0], b"a" * (HELD_MAX + 10) + b"z")
    end_s = time.monotonic() + WAIT_S
    while "z" not in keyboard._held and time.monotonic() < end_s:
        time.sleep(0.005)
    assert len(keyboard.poll()) == HELD_MAX
