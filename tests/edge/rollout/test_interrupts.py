"""Ctrl-C and SIGTERM at every stage, to real processes: the robot ends in its safe state and the recording is kept."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.rollout.interrupts import INSIST, Interrupts, Stage

REPO = Path(__file__).resolve().parents[3]
WAIT_S = 30.0


class Driven:
    """A run in another process."""

    def __init__(self, scenario: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.edge.rollout.driven", scenario], cwd=REPO, stdout=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.strip())
                self._changed.notify_all()

    def until(self, call: str, times: int = 1, after: str = "") -> None:
        """Wait for a call, the n-th one, perhaps counted from another one on."""

        def there() -> bool:
            start = self.lines.index(after) if after in self.lines else len(self.lines)
            return self.lines[start if after else 0 :].count(call) >= times

        with self._changed:
            assert self._changed.wait_for(there, WAIT_S), self.lines[-10:]

    def signal(self, number: int = signal.SIGINT) -> None:
        self.process.send_signal(number)

    def end(self) -> dict:
        """How it ended; it must have ended by itself."""
        assert self.process.wait(WAIT_S) == 0
        self._thread.join(WAIT_S)
        return json.loads(self.lines[-1])


@pytest.fixture
def driven() -> Iterator:
    started: list[Driven] = []

    def start(scenario: str = "plain") -> Driven:
        started.append(Driven(scenario))
        return started[-1]

    yield start
    for run in started:
        run.process.kill()
        run.process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP])
def test_once_while_driving_goes_home_and_ends_well(driven, number):
    run = driven()
    run.until("robot.send", 5)
    run.signal(number)
    told = run.end()
    assert told["ending"] == "stopped" and told["home"] == "reached" and not told["problems"] and told["safe"]
    assert told["kept"] == told["added"] >= 5 and told["finalized"]


def test_once_more_on_the_way_home_stops_where_it_is(driven):
    run = driven()
    run.until("robot.send", 5)
    run.signal()
    run.until("robot.send", 3, after="engine.pause")
    run.signal()
    told = run.end()
    assert told["home"] == "interrupted" and told["safe"] and not told["problems"]
    assert run.lines[run.lines.index("engine.pause") :].count("robot.send") < 50
    assert told["kept"] == told["added"] and told["finalized"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_anything_is_energised_it_ends_at_once(driven, number):
    run = driven("engine.start")
    run.until("engine.start")
    run.signal(number)
    told = run.end()
    assert told["ending"] == "interrupted" and told["finalized"] and not told["problems"]
    assert not [line for line in run.lines if line.startswith("robot.")]


@pytest.mark.parametrize("call", ["robot.connect", "robot.read", "robot.begin_episode", "robot.send"])
def test_a_call_that_hangs_is_left_by_the_second_one(driven, call):
    run = driven(call)
    run.until(call, 4 if call == "robot.send" else 1)
    run.signal()
    time.sleep(0.3)  # a hung call is not left by one signal; nothing can be waited for
    assert run.process.poll() is None
    run.signal()
    told = run.end()
    assert told["ending"] == "interrupted" and told["safe"] and told["kept"] == told["added"] and told["finalized"]


@pytest.mark.parametrize("call", ["robot.stop", "robot.disconnect", "engine.stop", "recorder.save_episode"])
def test_a_step_of_the_end_that_hangs_is_left_by_who_insists_and_the_next_ones_are_done(driven, call):
    run = driven(call)
    run.until("robot.send", 3)
    run.signal()
    run.until("robot.send", 1, after="engine.pause")
    run.signal()  # no way home
    run.until(call)
    while run.process.poll() is None and "recorder.finalize" not in run.lines:
        run.signal()
        time.sleep(0.05)  # signals sent at once are one
    told = run.end()
    assert told["finalized"] and not told["connected"] and told["standing"]


class TestStages:
    """What a signal means, in this process."""

    @pytest.fixture
    def interrupts(self) -> Iterator[Interrupts]:
        with Interrupts(threading.Event()) as interrupts:
            yield interrupts

    @staticmethod
    def ctrl_c() -> None:
        signal.raise_signal(signal.SIGINT)

    def test_while_driving_the_first_one_only_asks(self, interrupts):
        interrupts.enter(Stage.DRIVING)
        self.ctrl_c()
        assert interrupts.stop.is_set() and not interrupts.no_way_home.is_set()
        with pytest.raises(KeyboardInterrupt):
            self.ctrl_c()
        assert interrupts.stage is Stage.ENDING
        self.ctrl_c()  # outside of a step nothing is cut in two

    def test_at_the_end_only_a_step_can_be_given_up(self, interrupts):
        interrupts.enter(Stage.ENDING)
        for _ in range(2 * INSIST):
            self.ctrl_c()
        assert interrupts.no_way_home.is_set()

        def insisted() -> None:
            for _ in range(INSIST):
                self.ctrl_c()

        with pytest.raises(KeyboardInterrupt):
            interrupts.step(insisted)
        assert interrupts.step(lambda: 5) == 5

    def test_handlers_are_given_back(self):
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        with Interrupts(threading.Event()):
            assert signal.getsignal(signal.SIGTERM) != before[1]
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before

    def test_another_thread_takes_no_signals_over(self):
        before = signal.getsignal(signal.SIGINT)
        seen = []

        def other() -> None:
            with Interrupts(threading.Event()):
                seen.append(signal.getsignal(signal.SIGINT))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert seen == [before]
