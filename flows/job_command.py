"""The command that a rented machine runs: what the user typed, replayed there, after our package is installed."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from flows.flags import leaves, pairs
from tasks.errors import SettingsError
from tasks.settings import AnnotateSettings

PACKAGE_ENV = "CUEBOOK_JOB_PACKAGE"  # where the machine gets this package: git+https://..., a URL, or a name
PACKAGE = "cuebook"
REF_DEFAULT = "main"
KEY_ENV = "CUEBOOK_VLM_API_KEY"
TOKEN_ENV = "HF_TOKEN"
NO_KEY = "EMPTY"
PROMPT_ENV_PREFIX = "CUEBOOK_PROMPT_"
CONFIGS = frozenset({"config", "config_path"})
NOT_REPLAYED = frozenset({"root", "repo_id", "vlm.api_key", "json"})
SWITCHES = frozenset({"json", "verbose", "no-verbose"})  # options of the command itself that take no value
HERE = re.compile(r"//(localhost|127\.|0\.0\.0\.0|\[::1\])")
PASSWORD = re.compile(r"://[^/@\s]+@")
# What the image brings, and what must stay as it is there: built against its driver, and against each other.
PINNED = (
    "torch",
    "torchvision",
    "torchaudio",
    "triton",
    "vllm",
    "transformers",
    "numpy",
    "xformers",
    "flashinfer-python",
)
SCRIPT = """\
set -euo pipefail
place=$(mktemp -d)
{git}python3 - "$place" <<'PYTHON'
import pathlib, site, sys, sysconfig, venv
from importlib.metadata import PackageNotFoundError, version
place = pathlib.Path(sys.argv[1])
venv.create(place / "env", with_pip=False, symlinks=True)
theirs = dict.fromkeys([sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"], *site.getsitepackages()])
theirs.update(dict.fromkeys(p for p in sys.path if p.endswith(("site-packages", "dist-packages"))))
ours = next((place / "env" / "lib").glob("python*/site-packages"))
(ours / "image.pth").write_text("\\n".join(theirs) + "\\n")
for name in {pinned}:
    try:
        print(name + "==" + version(name), file=open(place / "pins", "a"))
    except PackageNotFoundError:
        pass
(place / "pins").touch()
PYTHON
"$place/env/bin/python" -m pip install --progress-bar off --disable-pip-version-check \\
  --upgrade-strategy only-if-needed --constraint "$place/pins" {package}
export PATH="$place/env/bin:$PATH"
exec {command}
"""
GIT = "command -v git >/dev/null || { apt-get update -qq && apt-get install -y -qq git >/dev/null; }\n"


def replay(arguments: Sequence[str], repo_id: str) -> list[str]:
    """The user's flags without those that only mean something here, then the dataset and where to run."""
    booleans = {name for name, field in leaves(AnnotateSettings) if field.annotation is bool}
    sections = {name.split(".")[0] for name, _ in leaves(AnnotateSettings) if "." in name}
    words = ["annotate", "run"]
    for name, value in pairs(arguments, SWITCHES):
        if name in CONFIGS or name in sections - {"job"}:
            raise _config_refused(name)
        if name in NOT_REPLAYED or name == "job" or name.startswith("job."):
            continue
        if value is None and name in booleans:
            value = "true"
        words.append(f"--{name}" if value is None else f"--{name}={value}")
    return [*words, f"--repo_id={repo_id}", "--job.target=local"]


def _config_refused(name: str) -> SettingsError:
    return SettingsError(
        "want all settings of a remote job on the command line",
        f"--{name}, a file that lies only on this machine",
        "write its settings as flags (annotate settings lists them)",
    )


def check_replayable(settings: AnnotateSettings) -> None:
    """Refuse what lies only on this machine: the run there would miss it, hours later or without a word."""
    if settings.repo_id is None:
        got = f"--root={settings.root}, which lies only on this machine" if settings.root else "none"
        raise SettingsError(
            "want a dataset that the machine can download",
            got,
            "add --repo_id=USER/NAME; what is not there is uploaded",
        )
    vlm = settings.vlm
    if vlm.replay_path is not None:
        raise _only_here("--vlm.replay_path", str(vlm.replay_path), "replay here: --job.target=local")
    if vlm.backend in ("openai", "transformers", "vllm") and Path(vlm.model_id).expanduser().exists():
        raise _only_here("--vlm.model_id", vlm.model_id, "upload the model and name it by its hub id")
    if vlm.backend == "openai" and not vlm.auto_serve and HERE.search(vlm.api_base):
        raise _only_here("--vlm.api_base", vlm.api_base, "say --vlm.auto_serve=true: the machine starts its own server")
    prompts = sorted(name for name in os.environ if name.startswith(PROMPT_ENV_PREFIX))
    if prompts:
        raise _only_here(
            prompts[0], os.environ[prompts[0]], f"put the prompt into your copy and set {PACKAGE_ENV} to it"
        )


def _only_here(name: str, value: str, remedy: str) -> SettingsError:
    return SettingsError(f"want nothing that lies only on this machine ({name})", value, remedy)


def take_secrets(settings: AnnotateSettings, token: str) -> tuple[dict[str, str], list[str]]:
    """(secret environment variables, flags that name them): neither token nor key ever stands in a command."""
    secrets = {TOKEN_ENV: token}
    key = settings.vlm.api_key
    if key == NO_KEY:
        return secrets, []
    name = KEY_ENV
    if key.startswith("env:"):
        name = key.removeprefix("env:")
        key = os.environ.get(name, "")
        if not key:
            raise SettingsError(
                f"want {name} in the environment", "nothing", "set it: it goes to the machine as a secret"
            )
    if name != TOKEN_ENV:
        secrets[name] = key
    return secrets, [f"--vlm.api_key=env:{name}"]


def script(words: Sequence[str], ref: str, backend: str) -> list[str]:
    """The machine's whole command: our package in an environment of its own over the image's packages, then the run.

    An environment of its own: nothing that the image brings can be changed by installing into it, and a server that the
    run starts (vllm serve) still runs on the image's own packages.
    """
    package = requirement(ref, "transformers" if backend == "transformers" else "annotate")
    text = SCRIPT.format(
        git=GIT if "git+" in package else "",
        pinned=repr(PINNED),
        package=shlex.quote(package),
        command=shlex.join(words),
    )
    return ["bash", "-c", text]


def requirement(ref: str, extra: str) -> str:
    """What pip is told: CUEBOOK_JOB_PACKAGE, else the repository that our package names.

    Never a bare name by itself: whoever owns that name on an index would get the user's token.
    """
    given = os.environ.get(PACKAGE_ENV) or _repository()
    if given is None:
        raise SettingsError(
            "want to know where the machine gets this package",
            f"no {PACKAGE_ENV}, and no repository in the package's own metadata",
            f"export {PACKAGE_ENV}=git+https://HOST/OWNER/{PACKAGE} (your copy), or a requirement that you trust",
        )
    if PASSWORD.search(given):
        raise SettingsError(f"want {PACKAGE_ENV} without a password", "one in the address", "use a public address")
    where = given.rpartition(" @ ")[2].strip()
    if where.startswith("git+"):
        pinned = "@" in where.rpartition("/")[2]
        return f"{PACKAGE}[{extra}] @ {where if pinned else f'{where}@{ref}'}"
    if "://" in where:
        return f"{PACKAGE}[{extra}] @ {where}"
    return given if ref == REF_DEFAULT or re.search(r"[=<>~!]", given) else f"{given}=={ref}"


def _repository() -> str | None:
    """The git address in our package's own metadata."""
    for line in importlib.metadata.metadata(PACKAGE).get_all("Project-URL") or []:
        label, _, url = line.partition(",")
        if label.strip().casefold() in ("repository", "source", "source code"):
            return f"git+{url.strip()}"
    return None
