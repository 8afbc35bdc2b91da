"""The most urgent first, but nobody waits while another is served twice."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from serving.scheduler import Ready, Scheduler

NAMES = list("abcdef")


def names(items: list[Ready]) -> list[str]:
    return [item.session for item in items]


def test_nobody_ready_is_nobody_served():
    assert Scheduler().order([]) == []


def test_earliest_deadline_first():
    ready = [Ready("late", 3.0), Ready("soon", 1.0), Ready("later", 9.0)]
    assert names(Scheduler().order(ready)) == ["soon", "late", "later"]


def test_of_equal_deadlines_whoever_waits_longest():
    scheduler = Scheduler()
    scheduler.order([Ready("b", 5.0)])
    scheduler.served(["other"])
    assert names(scheduler.order([Ready("a", 5.0), Ready("b", 5.0)])) == ["b", "a"]


def test_a_greedy_robot_is_served_once_a_cycle():
    """One that always claims to run dry now does not starve the patient ones; then the cycle begins again."""
    scheduler, served = Scheduler(), []
    for _ in range(9):
        ready = [Ready("greedy", -1.0), Ready("patient", 50.0), Ready("other", 60.0)]
        first = scheduler.order(ready)[0].session
        scheduler.served([first])
        served.append(first)
    assert served == ["greedy", "patient", "other"] * 3


def test_robots_that_keep_coming_anew_starve_nobody():
    """Each newcomer is more urgent than the patient one, which is served as soon as those before it have been."""
    scheduler = Scheduler()
    scheduler.order([Ready("patient", 50.0), Ready("other", 1.0)])
    scheduler.served(["other"])
    for i in range(3):
        assert names(scheduler.order([Ready("patient", 50.0), Ready(f"new-{i}", -1.0)]))[0] == "patient"
        scheduler.forget(f"new-{i}")


def test_whoever_leaves_is_forgotten():
    scheduler = Scheduler()
    scheduler.order([Ready("a", 1.0), Ready("b", 2.0)])
    scheduler.served(["a"])
    for name in "ab":
        scheduler.forget(name)
    assert scheduler._served == {} and scheduler._ready_since == {}


@given(st.dictionaries(st.sampled_from(NAMES), st.floats(-1e6, 1e6), min_size=1))
def test_with_no_history_the_order_is_that_of_deadlines(deadlines: dict[str, float]):
    ordered = Scheduler().order([Ready(name, at) for name, at in deadlines.items()])
    assert [item.deadline_s for item in ordered] == sorted(deadlines.values())


@given(st.integers(1, 6), st.integers(1, 5), st.data())
def test_all_ready_all_the_time_are_served_equally_often(count: int, cycles: int, data: st.DataObject):
    """Whatever their deadlines: after each full cycle everybody has had as many turns."""
    scheduler, turns = Scheduler(), dict.fromkeys(NAMES[:count], 0)
    for _ in range(cycles * count):
        ready = [Ready(name, data.draw(st.floats(0, 10), label=name)) for name in turns]
        first = scheduler.order(ready)[0].session
        scheduler.served([first])
        turns[first] += 1
    assert set(turns.values()) == {cycles}


class Fleet(RuleBasedStateMachine):
    """Robots ask, leave and join in any order; a model counts who was served while somebody waits."""

    @initialize()
    def begin(self) -> None:
        self.scheduler = Scheduler()
        self.waiting: dict[str, float] = {}
        self.served_meanwhile: dict[str, list[str]] = {}  # for each who waits: who was served since

    @rule(name=st.sampled_from(NAMES), deadline_s=st.floats(0, 100))
    def ask(self, name: str, deadline_s: float) -> None:
        self.waiting[name] = deadline_s
        self.served_meanwhile.setdefault(name, [])
        self.look()

    @rule(name=st.sampled_from(NAMES))
    def leave(self, name: str) -> None:
        self.waiting.pop(name, None)
        self.served_meanwhile.pop(name, None)
        self.scheduler.forget(name)

    @rule()
    def serve(self) -> None:
        ordered = self.look()
        if not ordered:
            return
        name = ordered[0].session
        self.scheduler.served([name])
        del self.waiting[name], self.served_meanwhile[name]
        for others in self.served_meanwhile.values():
            others.append(name)

    def look(self) -> list[Ready]:
        ordered = self.scheduler.order([Ready(name, at) for name, at in self.waiting.items()])
        assert sorted(names(ordered)) == sorted(self.waiting)
        return ordered

    @invariant()
    def nobody_waits_while_another_is_served_twice(self) -> None:
        for name, others in getattr(self, "served_meanwhile", {}).items():
            assert len(others) == len(set(others)), f"{name} waits, served meanwhile: {others}"

    @invariant()
    def only_those_who_are_here_are_remembered(self) -> None:
        if hasattr(self, "scheduler"):
            assert len(self.scheduler._served) <= len(NAMES) and len(self.scheduler._ready_since) <= len(NAMES)


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
