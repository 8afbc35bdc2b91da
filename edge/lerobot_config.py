"""`--inference.type=remote` for LeRobot's rollout: the flags of `edge.settings` as LeRobot's configs have them.

`InferenceSettings` and `SafetySettings` check the values; a test holds names and defaults together. Camera names are
mapped by LeRobot's own `--rename_map`. Importing this registers the type with LeRobot.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

from lerobot.rollout.inference import InferenceEngineConfig
from pydantic import BaseModel, ValidationError

from configuration.problems import Known
from configuration.yaml_source import dotted
from edge.errors import SettingsError
from edge.settings import InferenceSettings, SafetySettings

PAGE = "docs/lerobot-rollout.md"

M = TypeVar("M", bound=BaseModel)


@dataclass
class RemoteRtcConfig:
    """Real-time chunking."""

    enabled: bool = True  # send the tail of the queue, so that the next chunk continues it
    execution_horizon: int = 10  # rows of the tail that are sent, where no server says


@dataclass
class RemoteSafetyConfig:
    """What may be sent to the robot, whatever a policy says."""

    range: dict[str, tuple[float, float]] = field(default_factory=dict)  # joint: [min, max], robot units
    step_max: dict[str, float] = field(default_factory=dict)  # joint: most it may move in one control step
    on_limit: Literal["clamp", "reject"] = "clamp"  # beyond a limit: go to it, or refuse the chunk


@InferenceEngineConfig.register_subclass("remote")
@dataclass
class RemoteInferenceConfig(InferenceEngineConfig):
    """A policy server; the robot needs no weights."""

    # routers or servers, tried in turn; tls/… outside of a lab
    connect_endpoint: list[str] | str = field(default_factory=lambda: ["tcp/localhost:7447"])
    zenoh_mode: Literal["client", "peer"] = "client"  # client: one of the endpoints; peer: all of them
    tls_ca: str | None = None  # PEM of the authority that signed the server's certificate
    tls_cert: str | None = None  # PEM certificate of this robot
    tls_key: str | None = None  # PEM key of tls_cert
    service_model_id: str = ""  # model of the service; empty: --policy.path
    service_revision: str = "main"  # revision of the service
    service_task: str = ""  # task, or name, of the service; empty: --task
    client_uuid: str = ""  # this robot, the same at every start; empty: a new id
    jpeg_quality: int = 90  # of pictures on the wire; 0: raw
    resize: bool = True  # shrink pictures to what the policy looks at, where the server says so
    buffer_time_s: float = 0.5  # left over when an answer comes as late as 1 in 20 does
    max_action_age_s: float = 3.0  # an action is never executed longer than this after it was seen
    fallback: Literal["hold", "repeat_last", "stop", "zero"] = "hold"  # without actions
    repeat_last_max_s: float = 0.5  # how long repeat_last repeats before it stops
    degraded_after_s: float = 1.0  # an answer this late is a failure, however slow the others were
    request_timeout_s: float = 5.0  # an open, or all tries of one request, failed after this
    handshake_timeout_s: float = 2.0  # wait for servers to say what they serve
    connect_timeout_s: float = 10.0  # wait for a first server before the robot is energised
    reconnect_initial_backoff_s: float = 0.5  # wait after the first failed reconnect
    reconnect_max_backoff_s: float = 10.0  # longest wait between two reconnects
    max_offline_s: float = 60.0  # the run ends after this without a chunk; pauses do not count
    lease_ms: int = 2000  # silence after which a server is taken for dead, ms
    tags: dict[str, str] = field(default_factory=dict)  # labels in the server's log
    rtc: RemoteRtcConfig = field(default_factory=RemoteRtcConfig)
    safety: RemoteSafetyConfig = field(default_factory=RemoteSafetyConfig)

    def settings(self, rename_map: dict[str, str]) -> tuple[InferenceSettings, SafetySettings]:
        """The same, checked. Raises SettingsError."""
        said = {name: value for name, value in asdict(self).items() if name != "safety"}
        inference = _checked(InferenceSettings, {**said, "rename_map": rename_map}, "inference")
        return inference, _checked(SafetySettings, asdict(self.safety), "inference.safety")


def _checked(model: type[M], values: dict[str, Any], section: str) -> M:
    try:
        return model.model_validate(values)
    except ValidationError as err:
        known = Known(sorted(values), {}, PAGE)
        first = known.problem(err.errors()[0], lambda place: f"--{section}.{dotted(place)}")
        raise SettingsError(f"{first.wanted}, at {first.where}", first.got, first.remedy) from None
