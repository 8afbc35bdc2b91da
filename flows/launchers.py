"""Who rents us a machine. One small interface, and the hub's jobs as its first implementation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from tasks.errors import JobError, SettingsError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

COMPLETED = "COMPLETED"
UNFINISHED = frozenset({"SCHEDULING", "RUNNING"})
LAUNCHER_DEFAULT = "hf"


@dataclass(frozen=True)
class JobSpec:
    """What shall run, and on what."""

    image: str
    flavor: str  # the kind of machine, in the words of who rents it
    timeout: str  # seconds, or a number with s, m, h or d
    command: list[str]
    secrets: dict[str, str] = field(repr=False)  # environment variables that nobody else may read
    labels: dict[str, str]


class Launcher(Protocol):
    """Someone who runs jobs. All methods raise JobError."""

    def submit(self, job: JobSpec) -> str:
        """Start a job; its id."""

    def follow(self, job_id: str) -> Iterator[str]:
        """The lines of its log, until it ends."""

    def stage(self, job_id: str) -> str:
        """SCHEDULING or RUNNING while it lasts, COMPLETED when it has ended well, another word otherwise."""

    def cancel(self, job_id: str) -> None:
        """Stop it."""

    def advice(self, job_id: str) -> str:
        """How a person follows and stops it without us."""


class HubLauncher:
    """The hub's jobs."""

    def __init__(self, api: HfApi, user: str) -> None:
        self.api, self.user = api, user

    def submit(self, job: JobSpec) -> str:
        """Start a job; its id."""
        from tasks.dataset.hub_api import hub_errors, hub_problem

        try:
            info = self.api.run_job(
                image=job.image,
                command=job.command,
                secrets=job.secrets,
                flavor=job.flavor,
                timeout=job.timeout,
                labels=job.labels,
                namespace=self.user,
            )
        except (*hub_errors(), ValueError) as err:
            raise hub_problem(f"want a machine {job.flavor} of the hub's jobs", err, JobError) from err
        return info.id

    def follow(self, job_id: str) -> Iterator[str]:
        """The lines of its log, until it ends."""
        from tasks.dataset.hub_api import hub_errors, hub_problem

        # older hub libraries always follow
        how = {"follow": True} if "follow" in inspect.signature(self.api.fetch_job_logs).parameters else {}
        try:
            yield from self.api.fetch_job_logs(job_id=job_id, namespace=self.user, **how)
        except (*hub_errors(), ValueError) as err:
            problem = hub_problem(f"want the log of job {job_id}", err, JobError)
            raise JobError(problem.wanted, problem.got, f"the job goes on; {self.advice(job_id)}") from err

    def stage(self, job_id: str) -> str:
        """SCHEDULING or RUNNING while it lasts, COMPLETED when it has ended well, another word otherwise."""
        from tasks.dataset.hub_api import hub_errors, hub_problem

        try:
            stage = self.api.inspect_job(job_id=job_id, namespace=self.user).status.stage
        except hub_errors() as err:
            raise hub_problem(f"want to know how job {job_id} ended", err, JobError) from err
        return str(getattr(stage, "value", stage))

    def cancel(self, job_id: str) -> None:
        """Stop it."""
        from tasks.dataset.hub_api import hub_errors, hub_problem

        try:
            self.api.cancel_job(job_id=job_id, namespace=self.user)
        except hub_errors() as err:
            raise hub_problem(f"want to stop job {job_id}", err, JobError) from err

    def advice(self, job_id: str) -> str:
        """How a person follows and stops it without us."""
        job = f"{self.user}/{job_id}"
        return f"follow it: hf jobs logs -f {job}   stop it: hf jobs cancel {job}   see {self.api.endpoint}/jobs/{job}"


# Add another here: its name before the colon of --job.target, and what makes it from the hub client and the user.
LAUNCHERS: dict[str, Callable[[HfApi, str], Launcher]] = {LAUNCHER_DEFAULT: HubLauncher}


def split_target(target: str) -> tuple[str, str]:
    """`hf:h200`, or `h200` alone, to (launcher, flavor)."""
    name, colon, flavor = target.partition(":")
    if not colon:
        name, flavor = LAUNCHER_DEFAULT, target
    if name not in LAUNCHERS or not flavor.strip():
        known = ", ".join(f"{n}:FLAVOR" for n in sorted(LAUNCHERS))
        raise SettingsError(
            f"want --job.target=local, a flavor, or one of {known}", repr(target), "see hf jobs hardware"
        )
    return name, flavor
