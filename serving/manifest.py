"""The manifest: everything that one service is told, as one checked model.

Field names are those of the YAML file and of the dotted flags (`--model.device=cpu`). Reading files, laying flags over
them and wording the errors is done in `serving.overrides`; here is what may be said and what fits together.
"""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from configuration.refusal import refusal
from network.zenoh_settings import PORT_MAX, ZenohSettings
from serving.wire.errors import KeyNameError
from serving.wire.keys import Keys, client_id, sanitize
from serving.wire.limits import Limits

DTYPES = ("float32", "float64", "float16", "bfloat16", "float", "double", "half")
FAMILIES = ("auto", "replay", "exported", "lerobot", "factory")
_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_DEVICE = re.compile(r"(cpu|mps|(cuda|xpu)(:\d+)?)")


def nearest(name: str, known: tuple[str, ...]) -> str:
    """The likeliest of what is known, as a question; all of it where nothing comes near."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"use one of {', '.join(known)}"


def is_factory(name: str) -> bool:
    """Whether a name is a Python callable, `package.module:function`."""
    return _FACTORY.fullmatch(name) is not None


def _family(name: str) -> str:
    if name not in FAMILIES and not is_factory(name):
        wanted = f"want one of {', '.join(FAMILIES)}, or module:function"
        raise refusal("", wanted, repr(name), nearest(name, FAMILIES))
    return name


def _dtype(name: str) -> str:
    if name not in DTYPES:
        raise refusal("", "want the name of a torch floating point type", repr(name), nearest(name, DTYPES))
    return name


def _device(name: str) -> str:
    if not _DEVICE.fullmatch(name):
        got, known = repr(name), ("cpu", "cuda", "cuda:0", "cuda:1", "mps", "xpu")
        raise refusal("", "want a torch device: cpu, cuda, cuda:1, mps, xpu", got, nearest(name, known))
    return name


def _server_id(name: str) -> str:
    try:
        clean = client_id(name) if name else name
    except KeyNameError as err:
        raise refusal("", err.wanted, err.got or repr(name), err.remedy or "choose another") from err
    if clean != name:
        raise refusal("", "want letters, digits, _ . and - only", repr(name), f"write {clean}")
    return name


Port = Annotated[int, Field(ge=0, le=PORT_MAX)]


class Section(BaseModel):
    """Unknown keys are refused: a misspelt setting must not be a silent default."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())


class AdapterSettings(Section):
    """A PEFT adapter over the checkpoint."""

    repo_or_path: str = Field("", description="hub id or folder of a PEFT adapter (LoRA and others); empty: none")
    revision: str = Field("main", description="branch, tag or commit of the adapter")


class CompileSettings(Section):
    """torch.compile."""

    enabled: bool = Field(False, description="compile the policy with torch.compile; the warm-up takes longer")
    mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = Field(
        "default", description="mode of torch.compile"
    )
    dynamic: bool = Field(False, description="one graph for all batch sizes in place of one each")


class ModelSettings(Section):
    """Which policy is served, and where it runs."""

    repo_or_path: str = Field(
        "",
        description="**required**: hub id, checkpoint folder, exported policy, dataset to replay, or module:function",
    )
    revision: str = Field("main", description="branch, tag or commit on the hub; it is resolved to a commit at start")
    dtype: Annotated[str, AfterValidator(_dtype)] | None = Field(
        None, description=f"floating point type to compute in ({', '.join(DTYPES)}); null: as the checkpoint has it"
    )
    device: Annotated[str, AfterValidator(_device)] = Field(
        "cuda", description="where the policy runs: cpu, cuda, cuda:1, mps, xpu"
    )
    family: Annotated[str, AfterValidator(_family)] = Field(
        "auto",
        description="how it is loaded: auto (look and see), replay (a dataset answers), exported (policy.yaml and a "
        ".pt2 program), lerobot (a LeRobot checkpoint), factory (repo_or_path is module:function), or module:function",
    )
    adapter: AdapterSettings = Field(default_factory=AdapterSettings, description="a PEFT adapter over the checkpoint")
    compile: CompileSettings = Field(default_factory=CompileSettings, description="torch.compile")
    options: dict[str, Any] = Field(default_factory=dict, description="what only this kind of policy knows")

    @model_validator(mode="after")
    def _names_something(self) -> ModelSettings:
        if not self.repo_or_path.strip() and not is_factory(self.family):
            remedy = "set model.repo_or_path to a hub id or a folder"
            raise refusal("repo_or_path", "want a model to serve", "none", remedy)
        if self.family == "factory" and not is_factory(self.repo_or_path):
            remedy = "write it like my_robot.policies:load"
            raise refusal("repo_or_path", "want module:function for family factory", repr(self.repo_or_path), remedy)
        return self


class RtcSettings(Section):
    """Real-time chunking: the policy continues what the robot has not yet executed."""

    enabled: bool = Field(True, description="continue prefixes, where the policy can")
    execution_horizon: int = Field(
        10, ge=1, description="rows of a prefix that guide the next chunk; the server's value wins over the client's"
    )
    prefix_attention_schedule: Literal["zeros", "ones", "linear", "exp"] = Field(
        "linear", description="how the weight of the prefix falls over the horizon"
    )
    max_guidance_weight: float = Field(10.0, gt=0, description="largest gain of the guidance")
    mode: Literal["guided", "trained"] = Field(
        "guided", description="guided: correct while denoising; trained: the checkpoint has learnt it"
    )
    debug: bool = Field(False, description="keep what the guidance did, for looking at")
    debug_maxlen: int = Field(100, gt=0, description="steps kept when debug is on")


class BatchingSettings(Section):
    """Requests of several robots predicted together."""

    batch_max: Annotated[int, Field(ge=1)] | None = Field(
        None, description="most requests of one batch; null: as many as the policy takes, at most max_sessions"
    )
    max_wait_ms: float = Field(
        5.0, ge=0, le=1000, description="how long a request waits for others being decoded; a lone robot never waits"
    )


class DebugSettings(Section):
    """Requests and answers kept for later."""

    capture_dir: str | None = Field(None, description="folder for captured requests and answers; null: none kept")
    capture_max: int = Field(256, ge=1, description="request and answer pairs kept; the oldest go first")


class AuditSettings(Section):
    """One line a request."""

    path: str | None = Field(None, description="file for one JSON line a request; null: none is written")


class LimitSettings(Section):
    """How large one message of a robot may be; checked before memory is spent on it."""

    body_bytes_max: int = Field(Limits.body_bytes_max, ge=1024, description="bytes of a whole message")
    images_max: int = Field(Limits.images_max, ge=0, description="pictures in one message")
    pixels_max: int = Field(Limits.pixels_max, ge=1, description="pixels of all its pictures together")
    history_frames_max: int = Field(Limits.history_frames_max, ge=0, description="earlier moments in one message")
    tensor_values_max: int = Field(Limits.tensor_values_max, ge=1, description="values of one array")
    prefix_rows_max: int = Field(Limits.prefix_rows_max, ge=0, description="rows of a prefix")

    def limits(self) -> Limits:
        """As the wire takes them."""
        return Limits(**self.model_dump())


class Manifest(Section):
    """One service: one policy on one device."""

    model: ModelSettings = Field(description="which policy is served, and where it runs")
    default_task: str = Field("", description="instruction when the robot sends none; part of the service's key")
    pin_task: bool = Field(False, description="refuse every other task")
    service_name: str = Field("", description="part of the service's key in place of the task")
    server_id: Annotated[str, AfterValidator(_server_id)] = Field(
        "", description="name of this replica; empty: a new one at each start"
    )
    serving_mode: Literal["auto", "shared", "exclusive"] = Field(
        "auto", description="auto: as the policy allows; exclusive: one robot at a time; shared: refused where unsafe"
    )
    max_sessions: int = Field(5, ge=1, description="robots at a time; one in exclusive mode")
    warmup_inferences: int = Field(2, ge=0, description="trial runs before robots can come; 0: none")
    trained_fps: float = Field(30.0, gt=0, description="control rate of the training data, Hz")
    strict_fps: bool = Field(False, description="refuse robots of another rate, in place of a warning")
    rtc: RtcSettings = Field(default_factory=RtcSettings, description="real-time chunking")
    batching: BatchingSettings = Field(default_factory=BatchingSettings, description="requests predicted together")
    session_idle_timeout_s: float = Field(300.0, gt=0, description="sessions without traffic end after this long")
    drain_timeout_s: float = Field(10.0, gt=0, description="how long a stop waits for answers under way")
    decode_threads: int = Field(2, ge=1, le=64, description="threads that decode observations")
    finish_threads: int = Field(2, ge=1, le=64, description="threads that encode and send answers")
    health_port: Port = Field(9100, description="port of /healthz, /readyz and /metrics; 0: none")
    health_host: str = Field("127.0.0.1", description="address they are bound to; 0.0.0.0 for all")
    debug: DebugSettings = Field(default_factory=DebugSettings, description="requests and answers kept for later")
    audit: AuditSettings = Field(default_factory=AuditSettings, description="one line a request")
    limits: LimitSettings = Field(default_factory=LimitSettings, description="bounds on one message of a robot")
    zenoh: ZenohSettings = Field(description="the network")

    @model_validator(mode="after")
    def _has_a_key(self) -> Manifest:
        if self.pin_task and not self.default_task.strip():
            raise refusal("default_task", "want a task to pin", "none", "set default_task, or pin_task: false")
        last = "service_name" if self.service_name else "default_task"
        parts = {"model.repo_or_path": self._model, "model.revision": self.model.revision}
        for at, name in {**parts, last: self.service_name or self.default_task}.items():
            try:
                sanitize(name or "default")
            except KeyNameError as err:
                remedy = err.remedy or "set service_name to a short name"
                raise refusal(
                    at, f"{err.wanted}: it is part of the service's key", err.got or repr(name), remedy
                ) from err
        return self

    @model_validator(mode="after")
    def _network_passes_what_is_allowed(self) -> Manifest:
        allowed, passed = self.limits.body_bytes_max, self.zenoh.rx_message_bytes_max
        if passed < allowed:
            wanted = f"want at least limits.body_bytes_max, {allowed}: the network drops larger messages unsaid"
            raise refusal("zenoh.rx_message_bytes_max", wanted, str(passed), "raise it, or lower the limit")
        return self

    @property
    def _model(self) -> str:
        return self.model.repo_or_path or self.model.family

    def keys(self) -> Keys:
        """Where the service is found on the network."""
        return Keys.of(self._model, self.model.revision, self.default_task, service=self.service_name)
