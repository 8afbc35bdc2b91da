"""A bad network that really is one: a second network namespace behind a link with delay, jitter, loss and a rate.

    with Link(delay_ms=30, loss_share=0.02, rate_mbit=20) as link:
        ServerProcess(folder, host=link.far, enter=link.enter)  # reachable from here at link.far

The kernel's own emulation (netem) is often not built in, so a process carries packets between two TUN devices, one in
the namespace of the test and one in a new namespace. Both are gone when the process is. Needs root and /dev/net/tun.
A queue of 300 ms stands for the slow link's buffer; what does not fit is dropped at its tail.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from tests.network.zenoh_nodes import REPO

CLONE_NEWNET = 0x40000000
TUN = "/dev/net/tun"
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
MTU = 1500
QUEUE_MAX_S = 0.3
PACKETS_AT_A_TIME = 64
WAIT_S = 10.0


@dataclass(frozen=True)
class Path:
    """How the link treats packets, each way."""

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss_share: float = 0.0
    rate_mbit: float = 0.0  # 0: as fast as it goes
    cut: bool = False


def missing() -> str:
    """Why there can be no link here; "" when there can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "needs Linux and root"
    if not os.path.exists(TUN):
        return f"needs {TUN}"
    if lacking := [tool for tool in ("ip", "nsenter") if shutil.which(tool) is None]:
        return f"needs {' and '.join(lacking)}"
    probe = subprocess.run(
        [sys.executable, "-m", "tests.edge.netns", "--probe"], cwd=REPO, capture_output=True, check=False
    )
    return "" if probe.returncode == 0 else "may not make network namespaces"


class Link:
    """The near end is here, the far end in a namespace of its own. Use it in a `with`."""

    def __init__(self, seed: int = 0, **path: Any) -> None:
        self.path = Path(**path)
        self._seed = seed
        subnet = os.getpid() % 60 * 4  # tests that run side by side must not share addresses
        self.near, self.far = (f"10.231.{os.getpid() // 60 % 250}.{subnet + i}" for i in (1, 2))
        self.process: subprocess.Popen[str] | None = None

    @property
    def enter(self) -> list[str]:
        """Words before a command that is to run at the far end."""
        assert self.process is not None
        return ["nsenter", f"--net=/proc/{self.process.pid}/ns/net"]

    def change(self, **path: Any) -> None:
        """Other weather, from now on: `cut=True` is a cable that is out."""
        assert self.process is not None and self.process.stdin is not None
        self.path = replace(self.path, **path)
        self.process.stdin.write(json.dumps(asdict(self.path)) + "\n")
        self.process.stdin.flush()

    def __enter__(self) -> Link:
        words = [sys.executable, "-m", "tests.edge.netns", self.near, self.far, str(self._seed)]
        self.process = subprocess.Popen(words, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == "up"
        self.change()
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(WAIT_S)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


# --- the process that carries packets -------------------------------------------------------------------------------


def _device(name: str, address: str) -> int:
    """A TUN device in the present namespace; its file descriptor."""
    tun = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    for words in (f"addr add {address}/30 dev {name}", f"link set {name} up mtu {MTU} txqueuelen 1000"):
        subprocess.run(["ip", *words.split()], check=True)
    return tun


def _unshare() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "no new network namespace")


class Carrier:
    """Packets read at one end come out at the other, in order, when they are due."""

    def __init__(self, near: int, far: int, seed: int) -> None:
        self._other = {near: far, far: near}
        self._rng = random.Random(seed)
        self._free_at = dict.fromkeys(self._other, 0.0)
        self._last_due = dict.fromkeys(self._other, 0.0)
        self._under_way: list[tuple[float, int, int, bytes]] = []
        self._number = 0
        self._path = Path()

    def run(self) -> None:
        """Until the input ends."""
        while True:
            left_s = max(0.0, self._under_way[0][0] - time.monotonic()) if self._under_way else None
            ready, _, _ = select.select([*self._other, sys.stdin], [], [], left_s)
            if sys.stdin in ready:
                line = sys.stdin.readline()
                if not line:
                    return
                self._path = Path(**json.loads(line))
            for end in self._other.keys() & set(ready):
                self._take(end)
            self._give()

    def _take(self, end: int) -> None:
        for _ in range(PACKETS_AT_A_TIME):
            try:
                packet = os.read(end, 1 << 16)
            except BlockingIOError:
                return
            self._admit(end, packet)

    def _admit(self, end: int, packet: bytes) -> None:
        path, now_s = self._path, time.monotonic()
        if path.cut or self._rng.random() < path.loss_share:
            return
        takes_s = len(packet) * 8 / (path.rate_mbit * 1e6) if path.rate_mbit else 0.0
        sent_s = max(now_s, self._free_at[end]) + takes_s
        if sent_s - now_s > QUEUE_MAX_S:
            return
        self._free_at[end] = sent_s
        due_s = sent_s + max(0.0, path.delay_ms + self._rng.uniform(-path.jitter_ms, path.jitter_ms)) / 1e3
        self._last_due[end] = due_s = max(due_s, self._last_due[end])
        self._number += 1
        heapq.heappush(self._under_way, (due_s, self._number, self._other[end], packet))

    def _give(self) -> None:
        while self._under_way and self._under_way[0][0] <= time.monotonic():
            _, _, end, packet = heapq.heappop(self._under_way)
            try:
                os.write(end, packet)
            except OSError:
                continue  # the device's queue is full: lost, as on any link


def main() -> None:
    """`NEAR FAR SEED`: carry packets. `--probe`: find out whether that is allowed."""
    if sys.argv[1] == "--probe":
        os.close(os.open(TUN, os.O_RDWR))
        return _unshare()
    near_address, far_address, seed = sys.argv[1:]
    name = f"cb{os.getpid()}"
    near = _device(f"{name}n", near_address)
    _unshare()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    far = _device(f"{name}f", far_address)
    print("up", flush=True)
    Carrier(near, far, int(seed)).run()
    return None


if __name__ == "__main__":
    main()
