"""A run as a process of its own that says on stdout how far it is: `python -m tests.edge.rollout.driven SCENARIO`.

Each line is a call, such as `robot.send`; the last one is JSON of how it ended.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from edge.rollout.loop import Rollout
from edge.rollout.sentry import Sentry
from edge.rollout.settings import RolloutSettings, SentrySettings
from tests.edge.fakes import FakeEngine, FakeRecorder, FakeRobot, Log

HANG_S = 60.0


class Loud(Log):
    """Says each call when it is made, and hangs in one of them."""

    hangs = ""

    def add(self, name, what, faults, short):
        """Noted and said; then the call itself."""
        print(name, flush=True)
        if name == self.hangs and (name != "robot.send" or self.counts[name] > 2):
            self.hangs = ""
            time.sleep(HANG_S)
        super().add(name, what, faults, short)


def main() -> None:
    """Run one scenario: "plain", or the name of a call that hangs."""
    log = Loud()
    log.hangs = sys.argv[1]
    robot, recorder, stop = FakeRobot(log), FakeRecorder(log), threading.Event()
    rollout = Rollout(
        robot, FakeEngine(log), recorder, RolloutSettings(fps=50), strategy=Sentry(SentrySettings()), stop=stop
    )
    summary = rollout.run()
    told = {
        "ending": summary.ending, "home": summary.home, "problems": [str(p) for p in summary.problems],
        "safe": robot.safe, "connected": robot.connected, "standing": robot.standing,
        "kept": sum(map(len, recorder.episodes)), "added": log.counts["recorder.add"], "finalized": recorder.finalized,
        "stop": stop.is_set(),
    }  # fmt: skip
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
