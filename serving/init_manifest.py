"""`serving init`: a commented manifest to start from. Without a model it comes with a recording that it replays."""

from __future__ import annotations

import json
import re
from pathlib import Path

from serving.errors import ManifestError, ServingError
from serving.overrides import load_one

PLAIN = re.compile(r"[A-Za-z0-9_./][\w./:@+-]*")  # text that means itself in YAML, also within brackets
RECORDING = "recording"  # folder beside the manifest
EPISODES = 3
TEMPLATE = """\
# A policy service. All fields: docs/manifest.md, or `serving up --help`. Try it: serving check {name}
# Every field is a flag too, and flags win: serving up {name} --model.device=cuda:1

model:
  # Hub id, checkpoint folder, exported policy, dataset to replay, or module:function.
  repo_or_path: {model}
  # auto looks and sees; replay answers from the recorded actions of a dataset: no weights, no GPU.
  family: {family}
  # Branch, tag or commit on the hub; resolved to a commit at start.
  # revision: main
  # cpu, cuda, cuda:1, mps
  device: {device}
  # null computes as the checkpoint was saved; float16 and bfloat16 take half the memory.
  # dtype: null

# Instruction when the robot sends none; part of the key under which robots find this service.
default_task: ""
# pin_task: true            # refuse every other task

# auto: shared by robots where the policy's answers depend on the request alone, else one robot at a time.
# serving_mode: auto
max_sessions: 5
# warmup_inferences: 2      # trial runs before robots can come

# rtc:                      # real-time chunking, where the policy can
#   enabled: true
#   execution_horizon: 10

# batching:                 # requests of several robots predicted together
#   max_wait_ms: 5.0

# /healthz, /readyz and /metrics, on this machine only unless health_host says otherwise.
health_port: 9100
# health_host: 0.0.0.0

# audit: {{path: audit.jsonl}}          # one JSON line a request
# debug: {{capture_dir: capture}}       # requests and answers, for serving replay

zenoh:
  # peer: robots connect here directly. client: robots and servers meet at a router (serving router).
  mode: peer
  listen_endpoints: [{listen}]
  # mode: client
  # connect_endpoints: [tls/router.example:7447]
  # tls_root_ca_certificate: ca.pem
  # tls_connect_certificate: server.pem
  # tls_connect_private_key: server-key.pem
"""


def init(path: Path, model: str, device: str, listen: str, force: bool) -> list[Path]:
    """Write a manifest, and a recording beside it when no model is named. What was written. Raises ServingError."""
    if path.exists() and not force:
        raise ManifestError("want a new file", f"{path} is there", "choose another name, or pass --force")
    written = []
    family = "auto"
    if not model:
        family, device = "replay", "cpu"
        recording = path.parent / RECORDING
        if not recording.exists():
            _record(recording)
            written.append(recording)
        model = str(recording)
    place = ["--zenoh.mode=peer", f"--zenoh.listen_endpoints={listen}"]
    load_one([], [f"--model.repo_or_path={model}", f"--model.device={device}", *place])  # refuses what would not load
    text = TEMPLATE.format(
        name=path.name, model=_scalar(model), family=family, device=_scalar(device), listen=_scalar(listen)
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as err:
        raise ManifestError("want a file that can be written", str(err), "choose another place") from err
    return [path, *written]


def _scalar(text: str) -> str:
    """Text as YAML takes it."""
    return text if PLAIN.fullmatch(text) else json.dumps(text)


def _record(folder: Path) -> None:
    """A small made recording of a tabletop scene."""
    try:
        from tasks.dataset.generate import generate
    except ImportError as err:
        remedy = "pip install 'cuebook[replay]', or name a --model"
        raise ServingError("want pyarrow and av to make a recording", f"no module {err.name}", remedy) from err
    folder.parent.mkdir(parents=True, exist_ok=True)
    generate(folder, episodes=EPISODES)
