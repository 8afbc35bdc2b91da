"""The process-wide limit on requests in flight."""

from __future__ import annotations

import threading

from tasks.answers.pool import WorkPool


class Steps:
    """Counts how many steps run at once; each waits for the gate."""

    def __init__(self) -> None:
        self.lock = threading.Condition()
        self.running = self.most = 0
        self.order: list[object] = []
        self.gate = threading.Event()

    def make(self, name: object):
        def step() -> None:
            with self.lock:
                self.running += 1
                self.most = max(self.most, self.running)
                self.order.append(name)
                self.lock.notify_all()
            self.gate.wait(10)
            with self.lock:
                self.running -= 1
                self.lock.notify_all()

        return step

    def wait(self, condition) -> None:
        with self.lock:
            assert self.lock.wait_for(condition, 10)


def test_never_more_at_once_than_the_smallest_limit():
    pool, steps = WorkPool(), Steps()
    pool.join("a", 3)
    for i in range(10):
        pool.submit("a", 0, steps.make(i))
    steps.wait(lambda: steps.running == 3)
    steps.gate.set()
    steps.wait(lambda: len(steps.order) == 10 and steps.running == 0)
    assert steps.most == 3
    pool.leave("a")


def test_two_owners_share_one_limit():
    pool, steps = WorkPool(), Steps()
    pool.join("a", 2)
    pool.join("b", 2)
    for i in range(4):
        pool.submit("ab"[i % 2], 0, steps.make(i))
    steps.wait(lambda: steps.running == 2)
    steps.gate.set()
    steps.wait(lambda: len(steps.order) == 4 and steps.running == 0)
    assert steps.most == 2
    pool.leave("a")
    pool.leave("b")


def test_the_critical_path_goes_first_and_within_it_the_first_come():
    pool, steps = WorkPool(), Steps()
    pool.join("a", 1)
    pool.submit("a", 2, steps.make("first"))
    steps.wait(lambda: steps.running == 1)
    for priority, name in [(2, "vqa 1"), (2, "vqa 2"), (1, "speech"), (0, "plan 1"), (0, "plan 2")]:
        pool.submit("a", priority, steps.make(name))
    steps.gate.set()
    steps.wait(lambda: len(steps.order) == 6)
    assert steps.order == ["first", "plan 1", "plan 2", "speech", "vqa 1", "vqa 2"]
    pool.leave("a")


def test_a_pause_holds_no_thread():
    pool, done = WorkPool(), threading.Event()
    pool.join("a", 1)
    tries: list[str] = []

    def failing() -> float | None:
        tries.append("failing")
        return 0.05 if len(tries) < 4 else done.set()

    pool.submit("a", 0, failing)
    other = threading.Event()
    pool.submit("a", 2, lambda: tries.append("other") or other.set())
    assert other.wait(10) and done.wait(10)
    assert tries.index("other") < 3  # it ran during a pause
    pool.leave("a")


def test_leaving_drops_the_queue_and_ends_the_threads():
    pool, steps = WorkPool(), Steps()
    others = set(threading.enumerate())
    pool.join("a", 2)
    for i in range(6):
        pool.submit("a", 0, steps.make(i))
    steps.wait(lambda: steps.running == 2)
    workers = [t for t in threading.enumerate() if t not in others and t.name.startswith("vlm-")]
    pool.leave("a")
    steps.gate.set()
    for worker in workers:
        worker.join(10)
    assert len(workers) == 2 and not any(w.is_alive() for w in workers)
    assert sorted(steps.order) == [0, 1]
