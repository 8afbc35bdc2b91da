"""Where a dataset is published to, checked before any work is done: login, name, permission."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tasks.dataset.hub_api import hub_api, hub_errors, hub_problem, login_token
from tasks.errors import PublishError, SettingsError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

LOGIN = "run hf auth login, or set HF_TOKEN to a token with write access"
WRITE_PERMISSION = "repo.write"  # of a fine-grained token
ROLES_THAT_READ = frozenset({"read"})


@dataclass(frozen=True)
class Target:
    """A hub dataset that this user may write."""

    repo_id: str
    user: str
    url: str
    exists: bool
    private: bool  # what it is, or will be when it is made
    head: str | None = None  # its last commit
    warnings: tuple[str, ...] = ()
    api: HfApi = field(repr=False, compare=False, default=None)  # type: ignore[assignment]


def check_target(repo_id: str | None, *, private: bool = False) -> Target:
    """Make sure that `repo_id` can be written by this user. Writes nothing.

    Raises SettingsError when the name or the login is missing or wrong, PublishError when the hub refuses.
    """
    check_name(repo_id)
    assert repo_id is not None
    api, me = log_in(f"to publish {repo_id}")
    namespace = repo_id.partition("/")[0]
    _check_namespace(namespace, me)
    _check_token(repo_id, namespace, me)
    info = dataset_info(api, repo_id)
    url = f"{api.endpoint}/datasets/{repo_id}"
    if info is None:
        return Target(repo_id, me["name"], url, False, private, api=api)
    _check_write(api, repo_id)
    warnings = ()
    if private and not info.private:
        warnings = (f"{repo_id} exists and is public; it stays public (change that in its settings on the hub)",)
    return Target(repo_id, me["name"], url, True, bool(info.private), info.sha, warnings, api)


def check_name(repo_id: str | None) -> None:
    """Raise SettingsError for anything but USER/NAME."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if not repo_id:
        raise SettingsError(
            "want to know where to publish", "neither new_repo_id nor repo_id", "say --new_repo_id=USER/NAME"
        )
    try:
        validate_repo_id(repo_id)
    except HFValidationError as err:
        raise SettingsError("want a hub dataset USER/NAME", f"{repo_id!r}: {err}", "check the name") from None
    if repo_id.count("/") != 1:
        raise SettingsError("want a hub dataset USER/NAME", repr(repo_id), "put your user or organisation before it")


def log_in(purpose: str) -> tuple[HfApi, dict[str, Any]]:
    """A client with this user's token, and who that is. SettingsError without a token, PublishError when refused."""
    token = login_token()
    if not token:
        raise SettingsError(f"want a login of the hub {purpose}", "no token", LOGIN)
    api = hub_api(token)
    try:
        me = api.whoami()
    except hub_errors() as err:
        raise hub_problem(f"want a login that {api.endpoint} accepts, {purpose}", err) from err
    if not isinstance(me, dict) or not isinstance(me.get("name"), str):
        raise PublishError(
            f"want {api.endpoint} to say who the token belongs to", "another answer", "check HF_ENDPOINT"
        )
    return api, me


def dataset_info(api: HfApi, repo_id: str, revision: str | None = None) -> Any | None:
    """What the hub knows of a dataset; None when there is none that this user may see."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return api.dataset_info(repo_id, revision=revision)
    except RepositoryNotFoundError:
        return None
    except hub_errors() as err:
        raise hub_problem(f"want to look at {repo_id} on the hub", err) from err


def _check_namespace(namespace: str, me: Mapping[str, Any]) -> None:
    if namespace == me["name"]:
        return
    orgs = {o.get("name"): o.get("roleInOrg") for o in me.get("orgs") or [] if isinstance(o, dict)}
    if namespace not in orgs:
        mine = ", ".join([me["name"], *sorted(filter(None, orgs))])
        raise SettingsError(
            f"want a namespace that {me['name']} may write",
            namespace,
            f"use one of {mine}, or log in as another user (hf auth login)",
        )
    if orgs[namespace] in ROLES_THAT_READ:
        raise SettingsError(
            f"want write access to the organisation {namespace}",
            f"{me['name']} may only read there",
            "ask an admin of the organisation, or publish under your own name",
        )


def _check_token(repo_id: str, namespace: str, me: Mapping[str, Any]) -> None:
    """Refuse a token that says it cannot write; what it does not say, the hub decides later."""
    auth = me.get("auth")
    token = auth.get("accessToken") if isinstance(auth, dict) else None
    role = token.get("role") if isinstance(token, dict) else None
    if role in ROLES_THAT_READ:
        raise SettingsError("want a token with write access", "a token that may only read", LOGIN)
    details = token.get("fineGrained") if isinstance(token, dict) else None
    if role != "fineGrained" or not isinstance(details, dict):
        return
    scopes = [s for s in details.get("scoped") or [] if isinstance(s, dict) and isinstance(s.get("entity"), dict)]
    here = [s for s in scopes if s["entity"].get("name") in (namespace, repo_id)]
    if not any(WRITE_PERMISSION in (s.get("permissions") or []) for s in here):
        raise SettingsError(
            f"want a token with write access to {repo_id}",
            f"a fine-grained token without {WRITE_PERMISSION} for {namespace}",
            "add that permission to the token in the hub's settings, or use a token with the role write",
        )


def _check_write(api: HfApi, repo_id: str) -> None:
    """Ask the hub itself about a repository that exists; older hub libraries cannot ask."""
    if "write" not in inspect.signature(api.auth_check).parameters:
        return
    try:
        api.auth_check(repo_id, repo_type="dataset", write=True)
    except hub_errors() as err:
        raise hub_problem(f"want write access to {repo_id}", err) from err
