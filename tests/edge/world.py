"""A robot and a server in this process, with a network in memory and weather between them."""

from __future__ import annotations

from contextlib import ExitStack

from edge.state import State
from network.memory_transport import Hub, MemoryTransport
from network.transport import Transport
from tests.edge.drive import Drive
from tests.edge.nodes import MemoryServer, engine_for, running
from tests.edge.proxy import Proxy
from tests.edge.witness import WitnessPolicy, witness
from tests.network.zenoh_nodes import until

FPS = 60.0
WAIT_MS = 20.0  # of the policy, where nothing else is said
BACKOFF = {"reconnect_initial_backoff_s": 0.05, "reconnect_max_backoff_s": 0.2}


class World:
    """A robot and a server on a network in memory, with weather between them."""

    def __init__(self, stack: ExitStack, policy: WitnessPolicy | None = None, seed: int = 0, **server: object) -> None:
        self.stack, self.hub = stack, Hub()
        self.server = MemoryServer(self.hub, policy or witness(wait_ms=WAIT_MS), **server)
        stack.enter_context(self.server)
        self.proxies: list[Proxy] = []
        self._seed = seed
        self.transitions: list[tuple[State, State, str]] = []

    @property
    def proxy(self) -> Proxy:
        """What the robot dialled last."""
        return self.proxies[-1]

    @property
    def policy(self) -> WitnessPolicy:
        assert isinstance(self.server.policy, WitnessPolicy)
        return self.server.policy

    def dial(self) -> Transport:
        self.proxies.append(Proxy(MemoryTransport(self.hub), self._seed + len(self.proxies)))
        return self.proxies[-1]

    def drive(self, fps: float = FPS, **settings: object) -> Drive:
        """A robot that runs, and has acted."""

        def changed(old: State, new: State, event: object, why: str) -> None:
            self.transitions.append((old, new, why))

        engine = engine_for(dial=self.dial, fps=fps, on_transition=changed, **{**BACKOFF, **settings})
        self.engine = self.stack.enter_context(running(engine))
        drive = self.stack.enter_context(Drive(self.engine, fps))
        drive.until_acts()
        return drive

    def counted(self, name: str) -> int:
        return self.engine.stats().counters[name]

    def until_counted(self, name: str, number: int = 1) -> None:
        assert until(lambda: self.counted(name) >= number), (name, self.engine.stats())
