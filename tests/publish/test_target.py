"""The target of a publish is checked before any work: name, login, permission. Nothing is written meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.dataset.hub_api import hub_api
from tasks.errors import PublishError, SettingsError
from tasks.publish import check_target
from tests.hub_double import TOKEN, USER, HubDouble, Repo

NAME = f"{USER}/tabletop"


@pytest.fixture(autouse=True)
def nothing_is_written(hub: HubDouble) -> Any:
    yield
    assert hub.writes == []


def fine_grained(*scopes: tuple[str, str]) -> dict[str, Any]:
    scoped = [{"entity": {"type": "user", "name": name}, "permissions": [permission]} for name, permission in scopes]
    return {"accessToken": {"role": "fineGrained", "fineGrained": {"scoped": scoped}}}


def test_a_dataset_that_can_be_made(hub: HubDouble) -> None:
    target = check_target(NAME, private=True)
    assert (target.exists, target.private, target.user, target.head) == (False, True, USER, None)


def test_a_dataset_that_exists(hub: HubDouble) -> None:
    hub.repos[NAME] = repo = Repo(private=True)
    repo.commit({})
    target = check_target(NAME)
    assert (target.exists, target.private, target.head) == (True, True, repo.head)
    assert hub.of("/auth-check/write"), "the hub itself is asked whether it may be written"


def test_a_public_dataset_does_not_become_private(hub: HubDouble) -> None:
    hub.repos[NAME] = Repo(private=False)
    hub.repos[NAME].commit({})
    (warning,) = check_target(NAME, private=True).warnings
    assert "public" in warning


@pytest.mark.parametrize("name", [None, ""])
def test_no_target(hub: HubDouble, name: str | None) -> None:
    with pytest.raises(SettingsError, match="neither new_repo_id nor repo_id"):
        check_target(name)
    assert hub.calls == []


@pytest.mark.parametrize(
    "name", ["tabletop", "a/b/c", "ann/x y", "ann/..", "ann/x--y", "ann/x.git", "../etc/x", "-a/b"]
)
def test_names_that_are_none(hub: HubDouble, name: str) -> None:
    with pytest.raises(SettingsError, match="USER/NAME"):
        check_target(name)
    assert hub.calls == []


def test_no_login(hub: HubDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(SettingsError, match=r"no token[\s\S]*hf auth login"):
        check_target(NAME)
    assert hub.calls == []


def test_a_token_that_is_not_accepted(hub: HubDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrongtoken0123456789")
    with pytest.raises(PublishError, match=r"401[\s\S]*log in again") as caught:
        check_target(NAME)
    assert "hf_wrong" not in str(caught.value)


def test_somebody_elses_namespace(hub: HubDouble) -> None:
    with pytest.raises(SettingsError, match=r"got: bob\s+do: use one of ann, lab, museum"):
        check_target("bob/tabletop")


def test_an_organisation_where_i_only_read(hub: HubDouble) -> None:
    with pytest.raises(SettingsError, match=r"museum[\s\S]*only read"):
        check_target("museum/tabletop")
    assert check_target("lab/tabletop").repo_id == "lab/tabletop"


def test_a_token_that_only_reads(hub: HubDouble) -> None:
    hub.me["auth"] = {"accessToken": {"role": "read"}}
    with pytest.raises(SettingsError, match=r"only read[\s\S]*write access"):
        check_target(NAME)


@pytest.mark.parametrize("scopes", [[], [(USER, "repo.content.read")], [("lab", "repo.write")]])
def test_a_fine_grained_token_without_the_permission(hub: HubDouble, scopes: list[tuple[str, str]]) -> None:
    hub.me["auth"] = fine_grained(*scopes)
    with pytest.raises(SettingsError, match=r"repo\.write for ann"):
        check_target(NAME)


@pytest.mark.parametrize("scope", [(USER, "repo.write"), (NAME, "repo.write")])
def test_a_fine_grained_token_with_it(hub: HubDouble, scope: tuple[str, str]) -> None:
    hub.me["auth"] = fine_grained(scope)
    assert check_target(NAME).user == USER


def test_a_dataset_that_the_hub_does_not_let_us_write(hub: HubDouble) -> None:
    hub.repos[NAME] = Repo(private=False)
    hub.repos[NAME].commit({})
    hub.refuse = lambda call: (403, "resource group: no write") if "auth-check" in call.path else None
    with pytest.raises(PublishError, match=r"write access to ann/tabletop[\s\S]*403[\s\S]*another target"):
        check_target(NAME)


def test_a_hub_that_cannot_be_reached(hub: HubDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PublishError, match=r"127\.0\.0\.1:9 accepts[\s\S]*check the network"):
        check_target(NAME)


def test_the_address_of_the_hub_is_taken_as_it_is_set_now(hub: HubDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub_api(TOKEN).whoami()["name"] == USER
    monkeypatch.setenv("HF_ENDPOINT", "http://elsewhere.invalid/")
    assert hub_api(TOKEN).endpoint == "http://elsewhere.invalid"
