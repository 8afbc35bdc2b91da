"""`annotate publish` as a user types it, and a run that publishes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from flows.inline import annotate_inline
from flows.publish_cli import check_before_run, publish, size_text
from tasks.errors import PublishError, SettingsError
from tasks.settings import AnnotateSettings
from tests.hub_double import TOKEN, USER, HubDouble, Repo

NAME = f"{USER}/tabletop"


def annotate_publish(*words: str) -> Result:
    app = typer.Typer()
    app.command()(publish)
    app.command("other")(lambda: None)  # a second one, so that the first keeps its name
    return CliRunner().invoke(app, ["publish", *words], env={"COLUMNS": "300"})


def test_publish(hub: HubDouble, annotated: Path) -> None:
    done = annotate_publish(f"--root={annotated}", f"--repo_id={NAME}", "--private", "--message=mine")
    assert done.exit_code == 0, done.output
    assert hub.repos[NAME].private and hub.repos[NAME].operations[0][0]["value"]["summary"] == "mine"
    assert f"published {hub.url}/datasets/{NAME} (private)" in done.output and "tag v3.0" in done.output
    assert "names no licence" in done.output and TOKEN not in done.output


def test_publish_as_json(hub: HubDouble, annotated: Path) -> None:
    done = annotate_publish(f"--root={annotated}", f"--repo_id={NAME}", "--json")
    said = json.loads(done.stdout)
    assert said["commit"] == hub.repos[NAME].head and said["tag"] == "v3.0" and said["repo_id"] == NAME


def test_a_dry_run_shows_all_of_it(hub: HubDouble, annotated: Path) -> None:
    hub.repos[NAME] = Repo(private=True)
    hub.repos[NAME].commit({"data/old.parquet": b"x", "notes.txt": b"kept"})
    done = annotate_publish(f"--root={annotated}", f"--repo_id={NAME}", "--dry_run")
    assert done.exit_code == 0, done.output
    files = [p.relative_to(annotated).as_posix() for p in (annotated / "data").rglob("*.parquet")]
    expected = [*files, "removed there: data/old.parquet", "stays here: .annotate_staging/", "tag v3.0"]
    expected += ["(exists, private)", "## Language annotations", "nothing was uploaded"]
    for text in expected:
        assert text in done.output, text
    assert "notes.txt" not in done.output and hub.writes == []


def test_a_dry_run_as_json(hub: HubDouble, annotated: Path) -> None:
    done = annotate_publish(f"--root={annotated}", f"--repo_id={NAME}", "--dry_run", "--json")
    assert json.loads(done.stdout)["repo_id"] == NAME and hub.writes == []


@pytest.mark.parametrize(("repo_id", "code"), [("noslash", 2), ("bob/x", 2)])
def test_wrong_targets_are_usage_errors(hub: HubDouble, annotated: Path, repo_id: str, code: int) -> None:
    assert annotate_publish(f"--root={annotated}", f"--repo_id={repo_id}").exit_code == code
    assert hub.writes == []


def test_what_is_no_annotated_dataset_is_refused(hub: HubDouble, dataset_copy: Path, tmp_path: Path) -> None:
    for root in (dataset_copy, tmp_path / "nowhere"):
        assert annotate_publish(f"--root={root}", f"--repo_id={NAME}").exit_code == 1
    assert hub.writes == []


def test_a_run_that_publishes(hub: HubDouble, dataset_copy: Path) -> None:
    settings = AnnotateSettings(
        root=dataset_copy, push_to_hub=True, repo_id=NAME, push_private=True, push_commit_message="by the run"
    )
    target = check_before_run(settings)
    assert target is not None and not target.exists and hub.writes == []
    published = annotate_inline(settings).published
    assert published is not None
    repo = hub.repos[NAME]
    assert repo.private and repo.tags == {"v3.0": published.commit}
    assert repo.operations[0][0]["value"]["summary"] == "by the run"
    assert b"| plan | motion" in repo.files["README.md"]


def test_a_run_that_does_not_publish_asks_nobody(hub: HubDouble) -> None:
    assert check_before_run(AnnotateSettings(root=Path("x"))) is None
    assert hub.calls == []


def test_a_run_that_could_not_publish_does_not_begin(hub: HubDouble) -> None:
    with pytest.raises(SettingsError, match="neither new_repo_id nor repo_id"):
        check_before_run(AnnotateSettings(root=Path("x"), push_to_hub=True))
    with pytest.raises(SettingsError, match="bob"):
        check_before_run(AnnotateSettings(repo_id="a/b", new_repo_id="bob/x", push_to_hub=True))
    assert hub.writes == []


def test_sizes_for_people() -> None:
    sizes = [size_text(n) for n in (0, 999, 1000, 1_234_567, 9.9e12, 4.2e15)]
    assert sizes == ["0 B", "999 B", "1.0 kB", "1.2 MB", "9.9 TB", "4200.0 TB"]


def test_a_run_whose_upload_fails_says_how_to_finish(hub: HubDouble, dataset_copy: Path) -> None:
    hub.refuse = lambda call: (503, "maintenance") if "/commit/" in call.path else None
    with pytest.raises(
        PublishError, match=rf"only the upload is missing: annotate publish --root=\S+ --repo_id={NAME}"
    ):
        annotate_inline(AnnotateSettings(root=dataset_copy, push_to_hub=True, repo_id=NAME))
    hub.refuse = lambda call: None
    assert annotate_publish(f"--root={dataset_copy}", f"--repo_id={NAME}").exit_code == 0


def test_the_card_of_a_downloaded_dataset_names_its_source(hub: HubDouble, dataset_copy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "home/datasets/lab/source"
    folder.parent.mkdir(parents=True)
    shutil.copytree(dataset_copy, folder)
    folder.with_name("source.download.json").write_text(json.dumps({"repo_id": "lab/source", "revision": None}))
    annotate_inline(AnnotateSettings(repo_id="lab/source", push_to_hub=True, new_repo_id=NAME))
    assert f"made from [lab/source]({hub.url}/datasets/lab/source)" in hub.repos[NAME].files["README.md"].decode()
