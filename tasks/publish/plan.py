"""What a publish would do, worked out without writing anything: the dry run, and what the upload then follows."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.check import check_dataset
from tasks.dataset.hub_api import hub_errors, hub_problem
from tasks.dataset.layout import Dataset, open_dataset
from tasks.errors import PublishError, ValidationFailed
from tasks.publish.card import make_card
from tasks.publish.facts import gather, source_of
from tasks.publish.files import OWNED_FOLDERS, LeftOut, LocalFile, check_whole, files_of
from tasks.publish.front_matter import CARD_CHARS_MAX
from tasks.publish.target import Target

if TYPE_CHECKING:
    from tasks.report import Report

CARD_NAME = "README.md"
TAG_DEFAULT = "v3.0"
MESSAGE_DEFAULT = "Publish language annotations"
FILES_MAX = 25_000  # of one commit, set by the hub


@dataclass(frozen=True)
class UploadPlan:
    """Everything that goes to the hub, and everything that goes away there."""

    root: Path
    target: Target
    files: tuple[LocalFile, ...]  # the card not among them
    card: str | None  # None: no card is written, the folder's README.md goes as it is
    deleted: tuple[str, ...]  # files of the target that the new dataset does not have
    left_out: tuple[LeftOut, ...]
    tag: str
    message: str
    warnings: tuple[str, ...] = field(default=())

    @property
    def bytes(self) -> int:
        """Size of all files; what the hub has already is not sent again."""
        return sum(f.size for f in self.files) + len((self.card or "").encode())

    @property
    def count(self) -> int:
        """How many files the dataset will have here."""
        return len(self.files) + (self.card is not None)

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        target = self.target
        return {
            "root": str(self.root),
            "repo_id": target.repo_id,
            "url": target.url,
            "exists": target.exists,
            "private": target.private,
            "tag": self.tag,
            "message": self.message,
            "files": [{"path": f.path, "bytes": f.size} for f in self.files],
            "bytes": self.bytes,
            "deleted": list(self.deleted),
            "left_out": [asdict(item) for item in self.left_out],
            "card": self.card,
            "warnings": list(self.warnings),
        }


def plan_upload(
    root: Path,
    target: Target,
    *,
    source_id: str | None = None,
    message: str | None = None,
    skip_validation: bool = False,
) -> UploadPlan:
    """Check the dataset and work out its upload. Nothing is written, here or on the hub.

    Raises ValidationFailed when the columns break a rule (unless told to skip that), DatasetError when files are
    missing, PublishError when the hub cannot be asked.
    """
    dataset = open_dataset(root)
    report = None if skip_validation else _checked(root)
    files, left_out = files_of(dataset.root)
    check_whole(dataset, files)
    there = _listing(target)
    card = make_card(
        gather(dataset, report),
        target.repo_id,
        target.url,
        source=source_of(dataset.root, source_id),
        local=_read_card(dataset.root),
        remote=_fetch_card(target) if CARD_NAME in there else None,
    )
    return _plan(dataset, target, files, left_out, there, card.text, message, (*target.warnings, *card.warnings))


def plan_as_it_is(root: Path, target: Target, message: str) -> UploadPlan:
    """The upload of a dataset before anything was added: all of its files, no words of ours in its card."""
    dataset = open_dataset(root)
    files, left_out = files_of(dataset.root)
    check_whole(dataset, files)
    return _plan(dataset, target, files, left_out, _listing(target), None, message, target.warnings)


def _plan(
    dataset: Dataset,
    target: Target,
    files: list[LocalFile],
    left_out: list[LeftOut],
    there: Iterable[str],
    card: str | None,
    message: str | None,
    warnings: tuple[str, ...],
) -> UploadPlan:
    going = [f for f in files if card is None or f.path != CARD_NAME]
    if len(going) >= FILES_MAX:
        raise PublishError(
            f"want fewer than {FILES_MAX} files in one commit", str(len(going)), "merge the shards and videos"
        )
    kept = {f.path for f in files}
    deleted = tuple(sorted(p for p in there if p.startswith(OWNED_FOLDERS) and p not in kept))
    version = dataset.info.version
    return UploadPlan(
        root=dataset.root,
        target=target,
        files=tuple(going),
        card=card,
        deleted=deleted,
        left_out=tuple(left_out),
        tag=version if version.startswith("v") else TAG_DEFAULT,
        message=message or MESSAGE_DEFAULT,
        warnings=warnings,
    )


def _checked(root: Path) -> Report:
    report = check_dataset(root)
    if not report.ok:
        first = report.errors[0]
        raise ValidationFailed(
            f"want a dataset without errors to publish it ({root})",
            f"{len(report.errors)} errors, first: {first.where}: {first.message}",
            f"{first.remedy}; annotate check names all, --skip_validation publishes anyway",
        )
    return report


def _listing(target: Target) -> set[str]:
    """The files that the target has now."""
    if not target.exists:
        return set()
    try:
        return set(target.api.list_repo_files(target.repo_id, repo_type="dataset", revision=target.head))
    except hub_errors() as err:
        raise hub_problem(f"want to list the files of {target.repo_id}", err) from err


def _read_card(root: Path) -> str | None:
    path = root / CARD_NAME
    try:
        if path.stat().st_size > 4 * CARD_CHARS_MAX:
            raise PublishError(f"want a card of at most {4 * CARD_CHARS_MAX} bytes", str(path), "shorten it")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as err:
        raise PublishError(f"want UTF-8 text in {path}", str(err), "mend the file") from err


def _fetch_card(target: Target) -> str | None:
    """The card that the target has now, by way of a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="cuebook-card-") as folder:
        try:
            target.api.hf_hub_download(
                target.repo_id, CARD_NAME, repo_type="dataset", revision=target.head, local_dir=folder
            )
        except hub_errors() as err:
            raise hub_problem(f"want to read the card of {target.repo_id}", err) from err
        return _read_card(Path(folder))
