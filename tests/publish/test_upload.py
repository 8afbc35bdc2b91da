"""An annotated dataset uploaded to a real HTTP server: what arrives, what stays here, what goes away there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tasks.dataset.hub_api import hub_api
from tasks.errors import DatasetError, PublishError, ValidationFailed
from tasks.publish import Published, check_target, plan_upload, publish
from tests.hub_double import TOKEN, USER, Call, HubDouble, Repo

NAME = f"{USER}/tabletop"


def push(root: Path, repo_id: str = NAME, *, private: bool = False, **options: object) -> Published:
    return publish(plan_upload(root, check_target(repo_id, private=private), **options))


def own_files(root: Path) -> dict[str, bytes]:
    """The files of the dataset itself."""
    return {
        p.relative_to(root).as_posix(): p.read_bytes()
        for folder in ("data", "meta", "videos")
        for p in (root / folder).rglob("*")
        if p.is_file()
    }


def test_every_file_arrives_in_one_commit_with_the_tag_at_it(hub: HubDouble, annotated: Path) -> None:
    done = push(annotated)
    repo = hub.repos[NAME]
    assert {p: c for p, c in repo.files.items() if "/" in p} == own_files(annotated)
    assert len(repo.operations) == 1 and done.commit == repo.head
    assert repo.tags == {"v3.0": done.commit} and done.tag == "v3.0"
    assert done.url == f"{hub.url}/datasets/{NAME}" and done.commit in done.commit_url
    assert done.files == len(own_files(annotated)) + 1  # and the card
    assert not repo.private


def test_private_when_asked(hub: HubDouble, annotated: Path) -> None:
    assert push(annotated, private=True).private
    assert hub.repos[NAME].private


def test_an_organisation_of_mine(hub: HubDouble, annotated: Path) -> None:
    push(annotated, "lab/tabletop")
    assert list(hub.repos) == ["lab/tabletop"]


def test_staging_caches_and_leftovers_stay_here(hub: HubDouble, annotated: Path) -> None:
    staged = annotated / ".annotate_staging"
    assert staged.is_dir(), "the run staged inside the dataset"
    shutil.copytree(staged, annotated / "my-staging")  # --staging_dir inside the dataset, under any name
    shutil.copytree(staged / "episode_000000", annotated / "meta" / "odd")  # receipts alone give it away
    shutil.copytree(staged, annotated / "videos" / ".other.annotate_staging")
    for name in (
        ".DS_Store",
        "meta/.DS_Store",
        ".env",
        ".cache/huggingface/download/x.lock",
        ".cuebook-txn/new/meta/info.json",
        "meta/info.json.77.1.tmp",
        "data/chunk-000/file.parquet.incomplete",
        "meta/ledger.jsonl",
        "ledgers/ledger.jsonl",
        "__pycache__/x.pyc",
    ):
        (annotated / name).parent.mkdir(parents=True, exist_ok=True)
        (annotated / name).write_text("not part of the dataset")
    (annotated / "LICENSE").write_text("part of the dataset")
    plan = plan_upload(annotated, check_target(NAME))
    publish(plan)
    expected = {p for p in own_files(annotated) if "staging" not in p and "odd" not in p}
    expected -= {"meta/.DS_Store", "meta/info.json.77.1.tmp", "data/chunk-000/file.parquet.incomplete"}
    expected -= {"meta/ledger.jsonl"}
    assert set(hub.repos[NAME].files) == expected | {"LICENSE", "README.md", ".gitattributes"}
    reasons = {item.path: item.reason for item in plan.left_out}
    assert reasons["my-staging/"] == reasons[".annotate_staging/"] == reasons["meta/odd/"] == "staged rows"
    assert reasons[".env"] == "hidden"


def test_names_of_staged_files_are_those_of_the_run(annotated: Path) -> None:
    from flows import session
    from tasks.publish import files

    assert session.MANIFEST_NAME == files.MANIFEST_NAME and session.REPORT_NAME in files.STAGED_NAMES
    assert files.is_staging(annotated / ".annotate_staging")
    assert not files.is_staging(annotated) and not files.is_staging(annotated / "meta")


def test_a_dry_run_writes_nothing_and_names_everything(hub: HubDouble, annotated: Path) -> None:
    plan = plan_upload(annotated, check_target(NAME)).to_json()
    assert hub.writes == [] and hub.repos == {}
    assert {f["path"] for f in plan["files"]} == set(own_files(annotated))
    assert plan["bytes"] == sum(map(len, own_files(annotated).values())) + len(plan["card"].encode())
    assert plan["tag"] == "v3.0" and not plan["exists"] and plan["deleted"] == []


def test_a_second_publish_sends_what_changed_and_removes_stale_shards(hub: HubDouble, annotated: Path) -> None:
    first = push(annotated)
    repo = hub.repos[NAME]
    files = dict(repo.files)
    stale = {"data/chunk-009/file-000.parquet": b"old", "videos/old/file-000.mp4": b"old", "meta/old.json": b"{}"}
    kept = {"notes/data/mine.txt": b"by hand", "database.txt": b"by hand"}
    repo.commit({**files, **stale, **kept})
    changed = annotated / "meta/tasks.parquet"
    changed.write_bytes(changed.read_bytes() + b"")  # same bytes: must not be sent again
    (annotated / "meta/new.json").write_text("{}")
    hub.calls.clear()
    second = push(annotated)
    assert second.commit != first.commit and second.deleted == 3
    assert set(repo.files) == set(files) | set(kept) | {"meta/new.json"}
    keys = {(line["key"], line["value"]["path"]) for line in repo.operations[-1][1:]}
    assert keys == {("file", "meta/new.json")} | {("deletedFile", p) for p in stale}
    assert not hub.of("/blob/"), "large files that did not change were sent again"
    assert repo.tags == {"v3.0": second.commit}, "the stale tag was moved to the new commit"


def test_publishing_the_same_again_makes_no_commit(hub: HubDouble, annotated: Path) -> None:
    first = push(annotated)
    second = push(annotated)
    assert second.commit == first.commit and len(hub.repos[NAME].operations) == 1
    assert hub.repos[NAME].tags == {"v3.0": first.commit}


def test_a_tag_that_cannot_be_set_is_a_warning_with_the_command(hub: HubDouble, annotated: Path) -> None:
    hub.refuse = lambda call: (500, "tags are broken") if "/tag/" in call.path and call.method == "POST" else None
    done = push(annotated)
    assert done.tag is None and hub.repos[NAME].head == done.commit, "the upload stays"
    warning = next(w for w in done.warnings if "tag" in w)
    assert f"hf repos tag create {NAME} v3.0 --revision {done.commit} --type dataset" in warning
    assert "tags are broken" in warning


def test_a_failure_in_the_middle_leaves_the_target_as_it_was_and_a_rerun_completes(
    hub: HubDouble, annotated: Path
) -> None:
    puts: list[str] = []

    def full_after_one(call: Call) -> tuple[int, str] | None:
        if call.method == "PUT":
            puts.append(call.path)
            return (507, "Insufficient storage") if len(puts) > 1 else None
        return None

    hub.refuse = full_after_one
    with pytest.raises(PublishError, match=r"upload \d+ files to ann/tabletop[\s\S]*Insufficient[\s\S]*run again"):
        push(annotated)
    assert list(hub.repos[NAME].files) == [".gitattributes"] and hub.repos[NAME].tags == {}
    arrived = set(hub.blobs)
    assert len(arrived) == 1
    hub.refuse = lambda call: None
    hub.calls.clear()
    push(annotated)
    assert not [c for c in hub.of("/blob/") if c.path.rsplit("/", 1)[1] in arrived], "sent again"
    assert {p: c for p, c in hub.repos[NAME].files.items() if "/" in p} == own_files(annotated)


def test_a_commit_that_fails(hub: HubDouble, annotated: Path) -> None:
    hub.refuse = lambda call: (503, "maintenance") if "/commit/" in call.path else None
    with pytest.raises(PublishError, match=r"503[\s\S]*maintenance[\s\S]*not sent again"):
        push(annotated)
    hub.refuse = lambda call: None
    assert push(annotated).commit == hub.repos[NAME].head


def test_a_change_by_somebody_else_meanwhile_is_not_overwritten(hub: HubDouble, annotated: Path) -> None:
    push(annotated)
    plan = plan_upload(annotated, check_target(NAME), message="mine")
    (annotated / "meta/new.json").write_text("{}")
    plan = plan_upload(annotated, plan.target)
    hub.repos[NAME].commit({**hub.repos[NAME].files, "theirs.txt": b"new"})
    with pytest.raises(PublishError, match=r"changed meanwhile: run again"):
        publish(plan)
    assert "theirs.txt" in hub.repos[NAME].files


def test_files_that_a_gitignore_on_the_hub_swallows_are_missed(hub: HubDouble, annotated: Path) -> None:
    hub.repos[NAME] = repo = Repo(private=False)
    repo.commit({".gitignore": b"meta/stats.json\n"})
    repo.ignored.add("meta/stats.json")
    with pytest.raises(PublishError, match=r"meta/stats.json[\s\S]*\.gitignore"):
        push(annotated)


def test_a_dataset_with_errors_is_published_only_when_told(hub: HubDouble, annotated: Path) -> None:
    info = json.loads((annotated / "meta/info.json").read_text())
    del info["tools"]
    (annotated / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(ValidationFailed, match=r"tool say[\s\S]*--skip_validation"):
        plan_upload(annotated, check_target(NAME))
    assert hub.writes == []
    push(annotated, skip_validation=True)
    assert "Published without a check" in hub.repos[NAME].files["README.md"].decode()


@pytest.mark.parametrize("pattern", ["videos/**/*.mp4", "data/**/*.parquet"])
def test_half_a_dataset_never_deletes_the_other_half_on_the_hub(hub: HubDouble, annotated: Path, pattern: str) -> None:
    push(annotated)
    before = dict(hub.repos[NAME].files)
    sorted(annotated.glob(pattern))[0].unlink()
    with pytest.raises(DatasetError):
        push(annotated, skip_validation=True)
    assert hub.repos[NAME].files == before


def test_the_commit_message(hub: HubDouble, annotated: Path) -> None:
    push(annotated, message="first words\n\nmore")
    assert hub.repos[NAME].operations[0][0]["value"]["summary"].startswith("first words")


def test_links_are_followed_and_broken_ones_refused(hub: HubDouble, annotated: Path, tmp_path: Path) -> None:
    stats = annotated / "meta/stats.json"
    moved = stats.rename(tmp_path / "elsewhere.json")
    stats.symlink_to(moved)
    push(annotated)
    assert hub.repos[NAME].files["meta/stats.json"] == moved.read_bytes()
    moved.unlink()
    with pytest.raises(DatasetError, match=r"behind the link"):
        plan_upload(annotated, check_target(NAME))


def test_the_token_is_in_no_message(hub: HubDouble, annotated: Path) -> None:
    hub.refuse = lambda call: (403, f"no rights with {TOKEN}") if "/create" in call.path else None
    with pytest.raises(PublishError) as caught:
        push(annotated)
    assert TOKEN not in str(caught.value) and "403" in str(caught.value)
    assert TOKEN not in repr(hub_api(TOKEN)) and TOKEN not in repr(check_target(NAME))
