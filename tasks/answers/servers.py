"""The servers of a run: found running, or started, watched, restarted once, and ended."""

from __future__ import annotations

import ipaddress
import logging
import os
import shlex
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tasks.answers import server_command
from tasks.answers.client import CallError
from tasks.answers.endpoint import Endpoint, Router, at, external
from tasks.answers.preflight import probe, probe_own
from tasks.answers.server_log import LogFile
from tasks.answers.server_process import ServerProcess
from tasks.errors import AnswererError
from tasks.settings import VlmSettings

log = logging.getLogger(__name__)

POLL_S = 0.5  # between looks whether a server is ready; its log may call for one sooner
RESTART_PAUSE_S = 2.0  # GPU memory of a dead process is not free at once
TOLD_EVERY_S = 30.0  # while servers load


@dataclass
class Server:
    """One server of ours; its endpoint says how it is."""

    endpoint: Endpoint
    port: int
    gpus: str | None  # its CUDA_VISIBLE_DEVICES; None: as it is
    file: LogFile | None
    process: ServerProcess | None = None

    @property
    def name(self) -> str:
        """As it is called in logs."""
        return self.endpoint.name


class Fleet:
    """Servers started by this process. Their addresses are known beforehand: `serve_port` and the ports after it.

    Each listens on a port of its own and keeps it, with its GPUs, when it is started again. A port on which something
    else listens is an error rather than a reason to take the next one: other processes of the run must find them.
    """

    def __init__(self, settings: VlmSettings, router: Router, log_dir: Path | None) -> None:
        self._settings, self._router, self._log_dir = settings, router, log_dir
        self._ports = server_command.ports(settings)
        self._cond = threading.Condition()
        self._closing = threading.Event()
        self._servers: list[Server] = []
        self._keepers: list[threading.Thread] = []
        self._failure: AnswererError | None = None  # of the first start; later ones only cost a server

    @property
    def addresses(self) -> list[str]:
        """Where our servers are, or would be."""
        return [address(port) for port in self._ports]

    # ------------------------------------------------------------------ the start

    def start(self) -> None:
        """Use servers that run already, else start ours and wait until all of them answer. Raises AnswererError."""
        if self.find():
            return
        try:
            self._launch()
            self._wait_for_all()
        except BaseException:  # Ctrl-C too: nothing is left behind
            self.close()
            raise

    def find(self) -> bool:
        """Whether servers with the model run already, at `api_base` or where ours would be; they are then used."""
        candidates = {_place(e.settings.api_base): e for e in external(self._settings)}
        for port in self._ports:
            if ("", port) not in candidates and server_command.port_is_taken(port):
                candidates["", port] = Endpoint(at(self._settings, address(port)))
        found = [e for place, e in candidates.items() if self._is_usable(place, e)]
        for endpoint in set(candidates.values()) - set(found):
            endpoint.client.close()
        if found:
            log.info("%s answers and has %s: no server is started", _names(found), self._settings.model_id)
            if len(found) < self._settings.parallel_servers:
                log.warning("%d server(s) found, %d wanted", len(found), self._settings.parallel_servers)
            self._router.add(found)
        return bool(found)

    def _is_usable(self, place: tuple[str, int], endpoint: Endpoint) -> bool:
        try:
            probe(endpoint.client, endpoint.settings)
        except (CallError, AnswererError) as error:
            if isinstance(error, CallError) and (error.refused or (error.lost and place[0])):
                log.info("nobody answers at %s", endpoint.settings.api_base)
                return False
            got = error.got if isinstance(error, AnswererError) else str(error)
            if place[0] == "" and place[1] in self._ports:
                raise self._taken(place[1], got) from error
            log.warning("%s is not used: %s", endpoint.settings.api_base, got)
            return False
        return True

    def _taken(self, port: int, got: str) -> AnswererError:
        return AnswererError(
            f"port {port} for a server with {self._settings.model_id}",
            f"something listens there: {got}",
            "end it, ask it for a model that it has (--vlm.model_id=NAME), or pass another --vlm.serve_port",
        )

    def _launch(self) -> None:
        """Start all servers at once: they load beside each other."""
        commands = [server_command.command(self._settings, port) for port in self._ports]
        visible = server_command.visible_gpus()
        gpus = server_command.assign_gpus(self._settings, visible)
        if not visible and self._settings.gpus_per_server:
            log.info("no GPU is visible: the servers are started as they are")
        for port in self._ports:
            if server_command.port_is_taken(port):
                raise self._taken(port, "no model server")
        for i, port in enumerate(self._ports):
            endpoint = Endpoint(at(self._settings, address(port)), name=f"server-{i}", state="starting")
            file = LogFile(self._log_dir / f"{endpoint.name}.log") if self._log_dir is not None else None
            self._servers.append(Server(endpoint, port, gpus[i], file))
        self._router.add([s.endpoint for s in self._servers])
        for server, command in zip(self._servers, commands, strict=True):
            self._spawn(server, command)
            keeper = threading.Thread(target=self._keep, args=(server,), name=f"keeper of {server.name}", daemon=True)
            self._keepers.append(keeper)
            keeper.start()

    def _spawn(self, server: Server, command: list[str]) -> bool:
        """Start its process; False when the run is over."""
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if server.gpus is not None:
            env[server_command.MASK] = server.gpus
        with self._cond:
            if self._closing.is_set():
                return False
            server.process = ServerProcess(server.name, command, env, server.file)
        shown = "" if server.gpus is None else f", GPU {server.gpus}"
        where = "" if server.file is None else f", log in {server.file.path}"
        log.info("starting %s on port %d%s%s: %s", server.name, server.port, shown, where, shlex.join(command))
        return True

    def _wait_for_all(self) -> None:
        told = began = time.monotonic()
        with self._cond:
            while any(s.endpoint.state == "starting" for s in self._servers):
                if self._failure is not None or self._closing.is_set():
                    break
                self._cond.wait(POLL_S)
                if time.monotonic() - told > TOLD_EVERY_S:
                    told = time.monotonic()
                    waiting = [s.endpoint for s in self._servers if s.endpoint.state == "starting"]
                    log.info("%s: loading since %.0f s", _names(waiting), told - began)
            if self._failure is not None:
                raise self._failure
            if self._closing.is_set():
                raise _stopped()

    # ------------------------------------------------------------------ one server's life

    def _keep(self, server: Server) -> None:
        """Its thread: until ready, until its end, and the same once more."""
        try:
            self._until_ready(server)
            self._until_end(server)
            self._restart(server)
            self._until_end(server)
            self._lose(server, self._obituary(server, "to stay up", f"{_ending(server)}, for the second time"))
        except AnswererError as error:
            self._lose(server, error)
        except Exception as error:
            log.exception("the keeper of %s", server.name)
            self._lose(server, AnswererError(f"{server.name} to be looked after", repr(error), "report this"))

    def _until_ready(self, server: Server) -> None:
        """Wait until it answers. Raises AnswererError when it ends before, or takes too long."""
        process, limit_s = server.process, self._settings.serve_ready_timeout_s
        assert process is not None
        began = time.monotonic()
        reason = "not asked yet"
        while not self._closing.is_set():
            if process.ended.is_set():
                raise self._obituary(server, "to start", f"{_ending(server)} after {time.monotonic() - began:.0f} s")
            process.news.clear()
            try:
                probe_own(server.endpoint.client, server.endpoint.settings)
            except CallError as error:
                reason = str(error)
            else:
                if not process.ended.is_set():
                    log.info("%s is ready after %.0f s", server.name, time.monotonic() - began)
                    self._change(lambda: self._router.up(server.endpoint, process))
                    return
            if time.monotonic() - began > limit_s:
                raise self._obituary(
                    server,
                    f"to answer on port {server.port} within {limit_s:g} s",
                    f"it is not ready: {reason}",
                    "pass a longer --vlm.serve_ready_timeout_s, or a command that listens on {port}",
                )
            process.news.wait(POLL_S)
        raise _stopped()

    def _until_end(self, server: Server) -> None:
        assert server.process is not None
        server.process.ended.wait()
        if self._closing.is_set():
            raise _stopped()

    def _restart(self, server: Server) -> None:
        assert server.process is not None
        self._change(lambda: self._router.starting(server.endpoint))
        last = server.process.last_lines()
        log.warning("%s %s; it is started once more%s", server.name, server.process.how_it_ended, last)
        server.process.stop()  # children that survived it
        if self._closing.wait(RESTART_PAUSE_S) or not self._spawn(
            server, server_command.command(self._settings, server.port)
        ):
            raise _stopped()
        self._until_ready(server)

    def _lose(self, server: Server, error: AnswererError) -> None:
        """It will not come back. Before the first start is over this ends the run, later when it was the last one."""
        if self._closing.is_set():
            return
        log.warning("%s is left out for good: %s", server.name, error)

        def lose() -> None:
            self._router.down(server.endpoint, error)
            self._failure = error

        self._change(lose)

    def _change(self, change: Callable[[], None]) -> None:
        with self._cond:
            change()
            self._cond.notify_all()

    def _obituary(self, server: Server, wanted: str, got: str, remedy: str = "") -> AnswererError:
        assert server.process is not None
        where = f"see {server.file.path}, " if server.file is not None else ""
        return AnswererError(
            f"{server.name} ({shlex.join(server.process.command)}) {wanted}",
            got + server.process.last_lines(),
            where + (remedy or "mend the cause and run again: finished work is kept"),
        )

    # ------------------------------------------------------------------ the end

    def close(self) -> None:
        """End all servers that were started, beside each other, and wait until they are gone. Idempotent."""
        with self._cond:
            self._closing.set()
            processes = [s.process for s in self._servers if s.process is not None]
            self._cond.notify_all()
        for process in processes:
            process.let_go()
        for process in processes:
            process.stop()
        for keeper in self._keepers:
            keeper.join(POLL_S)
        for server in self._servers:
            if server.file is not None:
                server.file.close()


def address(port: int) -> str:
    """The API base of a server that we start."""
    return f"http://127.0.0.1:{port}/v1"


def _place(api_base: str) -> tuple[str, int]:
    """Host and port; "" for this machine, whatever it is called."""
    parts = urlsplit(api_base)
    host = parts.hostname or ""
    try:
        here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost"
    return "" if here else host, parts.port or (443 if parts.scheme == "https" else 80)


def _names(endpoints: list[Endpoint]) -> str:
    return ", ".join(e.name for e in endpoints)


def _ending(server: Server) -> str:
    assert server.process is not None
    return server.process.how_it_ended


def _stopped() -> AnswererError:
    return AnswererError("servers that are ready", "the run was stopped", "run again: it resumes")
