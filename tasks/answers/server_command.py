"""How a server is started: its command line, its port, its GPUs. Pure, but for the question which GPUs there are."""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Sequence

from tasks.errors import SettingsError
from tasks.settings import VlmSettings

log = logging.getLogger(__name__)

MODEL_LEN = 32768  # a model's own maximum, often eight times as much, would leave no memory for requests
MASK = "CUDA_VISIBLE_DEVICES"
NVIDIA_SMI_S = 30.0
_LISTED_GPU = re.compile(r"GPU (\d+):")
_LISTED_SLICE = re.compile(r"\s+MIG .*UUID: (MIG-[\w/-]+)")


def command(settings: VlmSettings, port: int) -> list[str]:
    """Program and arguments of a server on `port`. Raises SettingsError."""
    if settings.serve_command is None:
        return _vllm(settings, port)
    words = [w.replace("{port}", str(port)).replace("{model}", settings.model_id) for w in _words(settings)]
    if not _names_port(_words(settings)):
        words += ["--port", str(port)]
    return words


def _words(settings: VlmSettings) -> list[str]:
    given = settings.serve_command or ""
    try:
        words = shlex.split(given)
    except ValueError as error:
        raise SettingsError(
            "--vlm.serve_command as a shell would read it", f"{given!r}: {error}", "close it"
        ) from error
    if not words:
        raise SettingsError("a program in --vlm.serve_command", repr(given), "pass e.g. 'vllm serve {model}'")
    return words


def _names_port(words: Sequence[str]) -> bool:
    return any("{port}" in w or w == "--port" or w.startswith("--port=") for w in words)


def _vllm(settings: VlmSettings, port: int) -> list[str]:
    words = ["vllm", "serve", settings.model_id, "--host", "127.0.0.1", "--port", str(port)]
    if settings.gpus_per_server:
        words += ["--tensor-parallel-size", str(settings.gpus_per_server)]
    words += ["--max-model-len", str(settings.max_model_len or MODEL_LEN)]
    words += ["--gpu-memory-utilization", f"{settings.gpu_memory_utilization:g}"]
    if settings.dtype != "auto":
        words += ["--dtype", settings.dtype]
    if settings.trust_remote_code:
        words.append("--trust-remote-code")
    return [*words, "--uvicorn-log-level", "warning"]


def ports(settings: VlmSettings) -> list[int]:
    """Where the servers will listen: from `serve_port` on, or where the command itself says. Raises SettingsError."""
    count, first = settings.parallel_servers, settings.serve_port
    fixed = None if settings.serve_command is None else _fixed_port(_words(settings))
    if fixed is not None:
        if count > 1:
            raise SettingsError(
                f"a port of its own for each of {count} servers",
                f"--port {fixed} in --vlm.serve_command",
                "write {port} there, or leave --port out",
            )
        return [fixed]
    if first + count - 1 > 65535:
        raise SettingsError(f"{count} ports from --vlm.serve_port on", str(first), "pass a lower --vlm.serve_port")
    return list(range(first, first + count))


def _fixed_port(words: Sequence[str]) -> int | None:
    """The number behind an explicit --port."""
    for word, after in zip(words, [*words[1:], ""], strict=True):
        value = after if word == "--port" else word.removeprefix("--port=")
        if word.startswith("--port") and value.isdigit():
            return int(value)
    return None


def port_is_taken(port: int) -> bool:
    """Whether somebody listens there. A port that was used a moment ago counts as free, as it does for servers."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return True
    return False


# ---------------------------------------------------------------------- GPUs


def assign_gpus(settings: VlmSettings, gpus: Sequence[str]) -> list[str | None]:
    """`CUDA_VISIBLE_DEVICES` of each server; None: as it is. Raises SettingsError when there are too few GPUs."""
    count, each = settings.parallel_servers, settings.gpus_per_server
    if each == 0:
        return [None] * count
    if not gpus and settings.serve_command is not None:
        return [None] * count
    if len(gpus) < count * each:
        raise SettingsError(
            f"{count * each} GPUs for {count} server(s) of {each}",
            f"{len(gpus)} visible" + (f": {','.join(gpus)}" if gpus else ""),
            "pass fewer --vlm.parallel_servers, or --vlm.gpus_per_server=0 to leave the choice to the servers",
        )
    return [",".join(gpus[i * each : (i + 1) * each]) for i in range(count)]


def visible_gpus(mask: str | None = None) -> list[str]:
    """Names of the GPUs that a server may use, as they stand in `CUDA_VISIBLE_DEVICES`: numbers or UUIDs."""
    mask = os.environ.get(MASK) if mask is None else mask
    return parse_mask(mask) if mask is not None else parse_list(_nvidia_smi())


def parse_mask(mask: str) -> list[str]:
    """The GPUs of a mask. As CUDA reads it: what comes after a negative number is not there."""
    found: list[str] = []
    for entry in (e.strip() for e in mask.split(",")):
        if not entry or entry.startswith("-"):
            break
        found.append(entry)
    return found


def parse_list(listing: str) -> list[str]:
    """The GPUs of `nvidia-smi -L`: by number, or slice by slice where a GPU is cut into slices."""
    found: list[list[str]] = []
    for line in listing.splitlines():
        if gpu := _LISTED_GPU.match(line):
            found.append([gpu.group(1)])
        elif found and (part := _LISTED_SLICE.match(line)):
            found[-1] = [*(u for u in found[-1] if u.startswith("MIG-")), part.group(1)]
    return [name for group in found for name in group]


def _nvidia_smi() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        listing = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=NVIDIA_SMI_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("nvidia-smi does not tell which GPUs there are: %s", error)
        return ""
    return listing.stdout if listing.returncode == 0 else ""
