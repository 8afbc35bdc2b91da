"""How the robot side asks a server: the `--inference.…` and `--safety.…` flags."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from configuration.refusal import refusal
from network.zenoh_settings import RetrySettings, ZenohSettings, check_endpoints

RETRY = RetrySettings(period_init_ms=100, period_max_ms=300, period_increase_factor=1.5)  # a robot waits for it
SERVER_SIDE = ("max_guidance_weight", "prefix_attention_schedule", "schedule", "guidance")


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Endpoints = Annotated[list[str], BeforeValidator(_one_or_more)]
Seconds = Annotated[float, Field(gt=0, le=3600)]


class RtcSettings(BaseModel):
    """Real-time chunking: the server continues the tail that is still to be executed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(True, description="send the tail of the queue, so that the next chunk continues it")
    execution_horizon: int = Field(
        10, ge=1, le=1024, description="rows of the tail that are sent, where no server says"
    )

    @model_validator(mode="before")
    @classmethod
    def _of_the_server(cls, data: Any) -> Any:
        if isinstance(data, dict) and (name := next((n for n in SERVER_SIDE if n in data), None)):
            remedy = f"take --inference.rtc.{name} away and set it in the server's manifest"
            raise refusal(name, "want guidance set where the policy runs", f"{name} on the robot", remedy)
        return data


class InferenceSettings(BaseModel):
    """Where the server is and how it is asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["remote"] = Field("remote", description="a policy server; nothing else runs without weights")
    connect_endpoint: Endpoints = Field(
        default_factory=lambda: ["tcp/localhost:7447"], min_length=1, max_length=16,
        description="routers or servers, tried in turn; tls/… outside of a lab",
    )  # fmt: skip
    zenoh_mode: Literal["client", "peer"] = Field(
        "client", description="client: one of the endpoints; peer: all of them"
    )
    tls_ca: str | None = Field(None, description="PEM of the authority that signed the server's certificate")
    tls_cert: str | None = Field(None, description="PEM certificate of this robot")
    tls_key: str | None = Field(None, description="PEM key of tls_cert")
    service_model_id: str = Field("", description="model of the service; empty: --policy.path")
    service_revision: str = Field("main", description="revision of the service")
    service_task: str = Field("", description="task, or name, of the service; empty: --task")
    client_uuid: str = Field("", max_length=256, description="this robot, the same at every start; empty: a new id")
    jpeg_quality: int = Field(90, ge=0, le=100, description="of pictures on the wire; 0: raw")
    resize: bool = Field(True, description="shrink pictures to what the policy looks at, where the server says so")
    buffer_time_s: float = Field(0.5, ge=0, le=60, description="left over when an answer comes as late as 1 in 20 does")
    max_action_age_s: Seconds = Field(3.0, description="an action is never executed longer than this after it was seen")
    fallback: Literal["hold", "repeat_last", "stop", "zero"] = Field(
        "hold", description="without actions: send nothing; the last one for a while; zero for .vel, hold for the rest"
    )
    repeat_last_max_s: float = Field(0.5, ge=0, le=60, description="how long repeat_last repeats before it stops")
    degraded_after_s: Seconds = Field(1.0, description="a later answer is taken for lost, unless most are")
    request_timeout_s: Seconds = Field(5.0, description="an open, or all tries of one request, failed after this")
    handshake_timeout_s: Seconds = Field(2.0, description="wait for servers to say what they serve")
    connect_timeout_s: Seconds = Field(10.0, description="wait for a first server before the robot is energised")
    reconnect_initial_backoff_s: Seconds = Field(0.5, description="wait after the first failed reconnect")
    reconnect_max_backoff_s: Seconds = Field(10.0, description="longest wait between two reconnects")
    max_offline_s: Seconds = Field(60.0, description="the run ends after this without a chunk; pauses do not count")
    lease_ms: int = Field(2000, ge=200, le=600_000, description="silence after which a server is taken for dead, ms")
    rtc: RtcSettings = Field(default_factory=RtcSettings, description="real-time chunking")
    rename_map: dict[str, str] = Field(default_factory=dict, description="robot's camera name: policy's camera key")
    tags: dict[str, str] = Field(default_factory=dict, description="labels in the server's log")

    @model_validator(mode="after")
    def _check(self) -> InferenceSettings:
        check_endpoints(self.connect_endpoint, "connect_endpoint", port_min=1)
        self._check_tls()
        if self.reconnect_initial_backoff_s > self.reconnect_max_backoff_s:
            got = f"{self.reconnect_initial_backoff_s:g} and {self.reconnect_max_backoff_s:g}"
            raise refusal("reconnect_max_backoff_s", "want it not below reconnect_initial_backoff_s", got, "raise it")
        if self.buffer_time_s >= self.max_action_age_s:
            got = f"{self.buffer_time_s:g} and {self.max_action_age_s:g}"
            raise refusal("buffer_time_s", "want it below max_action_age_s, or all of it is stale", got, "lower it")
        return self

    def _check_tls(self) -> None:
        files = {"tls_ca": self.tls_ca, "tls_cert": self.tls_cert, "tls_key": self.tls_key}
        missing = [name for name, path in files.items() if not path]
        if len(missing) in (1, 2):
            given = ", ".join(name for name in files if name not in missing)
            wanted = "want tls_ca, tls_cert and tls_key together"
            raise refusal(missing[0], wanted, f"only {given}", "give all three or none")
        if missing and (encrypted := [e for e in self.connect_endpoint if e.startswith(("tls/", "quic/"))]):
            wanted = f"want tls_ca, tls_cert and tls_key for {encrypted[0]}"
            raise refusal("tls_ca", wanted, "none", "give all three, or use tcp/ in a lab")

    def network(self) -> ZenohSettings:
        """The same as the network takes it."""
        return ZenohSettings(
            mode=self.zenoh_mode, connect_endpoints=self.connect_endpoint, lease_ms=self.lease_ms, retry=RETRY,
            tls_root_ca_certificate=self.tls_ca, tls_connect_certificate=self.tls_cert,
            tls_connect_private_key=self.tls_key,
        )  # fmt: skip


class SafetySettings(BaseModel):
    """What may be sent to the robot, whatever a policy says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    range: dict[str, tuple[float, float]] = Field(
        default_factory=dict, description="joint: [min, max], robot units; beside the robot's own limits"
    )
    step_max: dict[str, float] = Field(default_factory=dict, description="joint: most it may move in one control step")
    on_limit: Literal["clamp", "reject"] = Field("clamp", description="beyond a limit: go to it, or refuse the chunk")

    @model_validator(mode="after")
    def _check(self) -> SafetySettings:
        for name, (low, high) in self.range.items():
            if not low < high:
                raise refusal(
                    f"range.{name}", "want [min, max] with min below max", f"[{low:g}, {high:g}]", "swap them"
                )
        for name, step in self.step_max.items():
            if not step > 0:
                raise refusal(f"step_max.{name}", "want a step above 0", f"{step:g}", "take it away for no limit")
        return self
