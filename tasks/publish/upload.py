"""The upload: one commit with all files and all deletions, checked, then the version tag at that commit.

One commit, because readers must never see half of a new dataset beside half of the old one. Contents go first and are
addressed by their digest: after a failure the next run sends only what has not arrived, and the target is unchanged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from tasks.dataset.hub_api import hub_errors, hub_problem, hub_reason, status_of
from tasks.errors import PublishError
from tasks.publish.plan import CARD_NAME, UploadPlan

log = logging.getLogger(__name__)

TAG_ATTEMPTS = 2
NOT_FOUND = 404


@dataclass(frozen=True)
class Published:
    """What an upload did."""

    repo_id: str
    url: str
    commit: str
    commit_url: str
    private: bool
    files: int
    bytes: int
    deleted: int
    tag: str | None  # None: it could not be set, a warning says how to
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


def publish(plan: UploadPlan, say: Callable[[str], None] = log.info) -> Published:
    """Upload what the plan says. Raises PublishError; the target then is as it was, and running again completes it."""
    target = plan.target
    head = target.head if target.exists else _create(plan)
    say(f"uploading {plan.count} files, {plan.bytes / 1e6:.1f} MB, to {target.url}")
    commit, url = _commit(plan, head)
    _check_arrived(plan, commit)
    tag, warning = _tag(plan, commit)
    return Published(
        repo_id=target.repo_id,
        url=target.url,
        commit=commit,
        commit_url=url,
        private=target.private,
        files=plan.count,
        bytes=plan.bytes,
        deleted=len(plan.deleted),
        tag=tag,
        warnings=(*plan.warnings, *([warning] if warning else [])),
    )


def _create(plan: UploadPlan) -> str | None:
    """Make the repository; its first commit."""
    target = plan.target
    try:
        # None where it need not be private: then an organisation's own default holds
        target.api.create_repo(target.repo_id, repo_type="dataset", private=target.private or None, exist_ok=True)
        return target.api.dataset_info(target.repo_id).sha
    except hub_errors() as err:
        raise hub_problem(f"want to make the dataset {target.repo_id}", err) from err


def _commit(plan: UploadPlan, head: str | None) -> tuple[str, str]:
    """Files and deletions in one commit on top of the one that the plan was made from."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    target = plan.target
    try:
        adds = [CommitOperationAdd(f.path, str(f.source)) for f in plan.files]
        if plan.card is not None:
            adds.append(CommitOperationAdd(CARD_NAME, plan.card.encode()))
        done = target.api.create_commit(
            target.repo_id,
            [*(CommitOperationDelete(p, is_folder=False) for p in plan.deleted), *adds],
            commit_message=plan.message,
            repo_type="dataset",
            parent_commit=head,
        )
    except (*hub_errors(), RuntimeError, ValueError) as err:
        raise hub_problem(f"want to upload {plan.count} files to {target.repo_id}", err) from err
    return done.oid, done.commit_url


def _check_arrived(plan: UploadPlan, commit: str) -> None:
    """The hub leaves out, without a word, what a .gitignore there names."""
    target = plan.target
    try:
        there = set(target.api.list_repo_files(target.repo_id, repo_type="dataset", revision=commit))
    except hub_errors() as err:
        raise hub_problem(f"want to check the upload to {target.repo_id}", err) from err
    missing = [f.path for f in plan.files if f.path not in there]
    if missing:
        raise PublishError(
            f"want all files of the dataset at {commit[:8]} of {target.repo_id}",
            f"{len(missing)} are not there, first: {missing[0]}",
            "remove .gitignore from that repository, then publish again",
        )


def _tag(plan: UploadPlan, commit: str) -> tuple[str | None, str | None]:
    """Put the version tag at the upload; (tag, warning). Without it loaders find no revision of the dataset."""
    target, reason = plan.target, ""
    for _ in range(TAG_ATTEMPTS):
        try:
            _untag(plan)
            target.api.create_tag(target.repo_id, tag=plan.tag, revision=commit, repo_type="dataset")
            return plan.tag, None
        except hub_errors() as err:
            reason = hub_reason(err)
    command = f"hf repos tag create {target.repo_id} {plan.tag} --revision {commit} --type dataset"
    return (
        None,
        f"the upload is complete, but the tag {plan.tag} could not be set ({reason}); set it yourself: {command}",
    )


def _untag(plan: UploadPlan) -> None:
    try:
        plan.target.api.delete_tag(plan.target.repo_id, tag=plan.tag, repo_type="dataset")
    except hub_errors() as err:
        if status_of(err) != NOT_FOUND:
            raise
