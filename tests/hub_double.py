"""A hub of our own: a real HTTP server that speaks the calls a publish and a remote job make, and checks them.

What it checks on its own: the token of every call, contents against their digest and size, that committed large files
have arrived, that deleted files exist, that the parent of a commit is the head, that tags point at commits.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_doubletoken0123456789"
USER = "ann"
PAGE = 3  # entries of one page of a listing: small, so that every listing has several
LFS_SUFFIXES = (".parquet", ".mp4")
READS_BY_POST = ("/validate-yaml", "/preupload/", "/paths-info/")  # POST, but nothing changes


@dataclass(frozen=True)
class Call:
    """One request as it came."""

    method: str
    path: str
    body: bytes = field(repr=False)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def writes(self) -> bool:
        return self.method not in ("GET", "HEAD") and not any(part in self.path for part in READS_BY_POST)


@dataclass
class Repo:
    """A dataset repository: commits hold whole trees."""

    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)  # (oid, path -> content), oldest first
    tags: dict[str, str] = field(default_factory=dict)
    operations: list[list[dict[str, Any]]] = field(default_factory=list)  # the lines of each commit call
    ignored: set[str] = field(default_factory=set)  # what a .gitignore there would name

    @property
    def head(self) -> str:
        return self.commits[-1][0]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][1]

    def tree(self, revision: str) -> dict[str, bytes] | None:
        oid = self.head if revision == "main" else self.tags.get(revision, revision)
        return dict(self.commits).get(oid)

    def commit(self, files: dict[str, bytes]) -> str:
        seed = f"{len(self.commits)}:{sorted((p, hashlib.sha1(c).hexdigest()) for p, c in files.items())}"
        oid = hashlib.sha1(seed.encode()).hexdigest()
        self.commits.append((oid, files))
        return oid


class Job:
    """A job that prints what the test says and goes through the stages that the test says."""

    def __init__(self, job_id: str, spec: dict[str, Any]) -> None:
        self.id, self.spec = job_id, spec
        self.stage = "RUNNING"
        self.log: list[str] = []
        self.more = threading.Condition()
        self.log_read = threading.Event()  # somebody follows

    def say(self, *lines: str) -> None:
        with self.more:
            self.log += lines
            self.more.notify_all()

    def end(self, stage: str) -> None:
        with self.more:
            self.stage = stage
            self.more.notify_all()


class HubDouble:
    """The state behind the server."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}  # large files by sha256
        self.jobs: dict[str, Job] = {}
        self.on_job: Callable[[Job], None] = lambda job: job.end("COMPLETED")
        self.me: dict[str, Any] = {
            "type": "user",
            "name": USER,
            "orgs": [{"name": "lab", "roleInOrg": "write"}, {"name": "museum", "roleInOrg": "read"}],
            "auth": {"type": "access_token", "accessToken": {"displayName": "t", "role": "write"}},
        }
        self.refuse: Callable[[Call], tuple[int, str] | None] = lambda call: None  # a test's own troubles
        self.lock = threading.RLock()
        self.url = ""

    @property
    def writes(self) -> list[Call]:
        """Calls that would have changed something."""
        return [c for c in self.calls if c.writes]

    def of(self, part: str, method: str | None = None) -> list[Call]:
        """Calls whose path holds `part`."""
        return [c for c in self.calls if part in c.path and method in (None, c.method)]


class Refusal(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        self.status, self.message, self.code = status, message, code


@contextmanager
def running_hub() -> Iterator[HubDouble]:
    """The server, on a free port."""
    hub = HubDouble()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        for job in hub.jobs.values():
            job.end("CANCELED")
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # headers and body in one packet
    hub: HubDouble

    def log_message(self, *_: Any) -> None:
        """Silent."""

    def _handle(self) -> None:
        body = self._body()
        split = urlsplit(self.path)
        call = Call(self.command, split.path, body)
        with self.hub.lock:
            self.hub.calls.append(call)
        try:
            trouble = self.hub.refuse(call)
            if trouble is not None:
                raise Refusal(*trouble)
            if not split.path.startswith("/blob/"):  # signed addresses need no token
                self._check_token()
            for method, pattern, answer in ROUTES:
                found = re.fullmatch(pattern, split.path)
                if found and self.command in method.split("|"):
                    query = {k: v[-1] for k, v in parse_qs(split.query).items()}
                    return answer(self, call, {k: unquote(v) for k, v in found.groupdict().items() if v}, query)
            raise Refusal(404, f"no such address {self.path}")
        except Refusal as refusal:
            headers = {"X-Error-Message": refusal.message}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            self.reply({"error": refusal.message}, refusal.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().strip(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _check_token(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refusal(401, "Invalid credentials in Authorization header")

    def reply(
        self, value: Any, status: int = 200, headers: dict[str, str] | None = None, *, length: int | None = None
    ) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def repo(self, repo_id: str) -> Repo:
        if repo_id not in self.hub.repos:
            raise Refusal(404, "Repository not found", "RepoNotFound")
        return self.hub.repos[repo_id]

    # ------------------------------------------------------------------------------------------ who, and repositories

    def whoami(self, call: Call, names: dict[str, str], query: dict[str, str]) -> None:
        self.reply(self.hub.me)

    def create_repo(self, call: Call, names: dict[str, str], query: dict[str, str]) -> None:
        wanted = call.json
        if wanted.get("type") != "dataset":
            raise Refusal(400, f"want a dataset, got {wanted}")
        repo_id = f"{wanted.get('organization') or USER}/{wanted['name']}"
        url = f"{self.hub.url}/datasets/{repo_id}"
        if repo_id in self.hub.repos:
            return self.reply({"error": "You already created this dataset repo", "url": url}, 409)
        private = wanted.get("visibility") == "private" or wanted.get("private") is True
        repo = self.hub.repos[repo_id] = Repo(private)
        repo.commit({".gitattributes": b"*.parquet filter=lfs\n*.mp4 filter=lfs\n"})
        self.reply({"url": url, "id": repo_id, "name": repo_id})

    def info(self, call: Call, names: dict[str, str], query: dict[str, str]) -> None:
        repo = self.repo(names["repo"])
        revision = names.get("rev") or "main"
        files = repo.tree(revision)
        if files is None:
            raise Refusal(404, f"no revision {revision}", "RevisionNotFound")
        oid = repo.head if revision == "main" else repo.tags.get(revision, revision)
        siblings = [{"rfilename": p} for p in files]
        self.reply({"id": names["repo"], "sha": oid, "private": repo.private, "siblings": siblings, "tags": []})

    def auth_check(self, call: Call, names: dict[str, str], query: dict[str, str]) -> None:
        self.repo(names["repo"])
        self.reply({"ok": True})

    def tree(self, call: Call, names: dict[str, str], query: dict[str, str]) -> None:
        files = self.repo(names["repo"]).tree(names["rev"])
        if files is None:
            raise Refusal(404, f"no revision {names['rev']}", "RevisionNotFound")
        entries = [
            {"type": "file", "path": p, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
            for p, c in sorted(files.items())
        ]
        start = int(query.get("cursor", 0))
        more = start + PAGE < len(entries)
        link = f'<{self.hub.url}{call.path}?recursive=true&cursor={start + PAGE}>; rel="next"'
        self.reply(entries[start : start + PAGE], headers={"Link": link} if more else {})

    def resolve(self, call: Call, names: dict[str, str], query: dict[str, str]) -> None:
        repo = self.repo(names["repo"])
        files = repo.tree(names["rev"]) or {}
        if names["path"] not in files:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        content = files[names["path"]]
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": repo.head}
        self.reply(content, headers=headers)

    # ------------------------------------------------------------------------------------------ upload

    def validate_yaml(self, call: Call, names: dict[str, str], query: dict[str, str]) -> None:
        import yaml

        block = re.match(r"---\n(.*?)\n---\n", call.json["content"], re.DOTALL)
        try:
            known = yaml.safe_load(block[1]) if block else {}
        except yaml.YAMLError as err:
            return self.reply({"errors": [{"message": str(err)}], "warnings": []}, 400)
        wrong = [] if isinstance(known, dict) else [{"message": "want a mapping"}]
        self.reply({"errors": wrong, "warnings": []}, 400 if wrong else 200)

    def preupload(self, call: Call, names: dict[str, str], query: dict[str, str]) -> None:
        repo = self.repo(names["repo"])
        self.reply({"files": [self._mode(repo, f["path"]) for f in call.json["files"]]})

    def _mode(self, repo: Repo, path: str) -> dict[str, Any]:
        large = path.endswith(LFS_SUFFIXES)
        there = repo.files.get(path)
        oid = None
        if there is not None:
            git = b"blob %d\0" % len(there) + there
            oid = hashlib.sha256(there).hexdigest() if large else hashlib.sha1(git).hexdigest()
        ignored = path in repo.ignored
        return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": ignored, "oid": oid}

    def lfs_batch(self, call: Call, names: dict[str, str], query: dict[str, str]) -> None:
        self.repo(names["repo"])
        wanted = call.json
        if wanted["operation"] != "upload" or "basic" not in wanted["transfers"] or wanted["hash_algo"] != "sha256":
            raise Refusal(422, f"cannot do {wanted}")
        objects = []
        for item in wanted["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.blobs:
                href = f"{self.hub.url}/blob/{item['oid']}?size={item['size']}"
                answer["actions"] = {"upload": {"href": href}}
            objects.append(answer)
        self.reply({"transfer": "basic", "objects": objects})

    def put_blob(self, call: Call, names: dict[str, str], query: dict[str, str]) -> None:
        if hashlib.sha256(call.body).hexdigest() != names["oid"] or len(call.body) != int(query["size"]):
            raise Refusal(422, "content does not match its digest")
        self.hub.blobs[names["oid"]] = call.body
        self.reply({})

    def commit(self, call: Call, names: dict[str, str], query: dict[str, str]) -> None:
        repo = self.repo(names["repo"])
        lines = [json.loads(line) for line in call.body.splitlines()]
        header, *operations = lines
        if header["key"] != "header" or not header["value"]["summary"]:
            raise Refusal(400, "want a header with a summary first")
        parent = header["value"].get("parentCommit")
        if parent not in (None, repo.head):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repo.files)
        for operation in operations:
            self._apply(operation["key"], operation["value"], files)
        repo.operations.append(lines)
        oid = repo.commit(files)
        url = f"{self.hub.url}/datasets/{names['repo']}/commit/{oid}"
        self.reply({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    def _apply(self, kind: str, value: dict[str, Any], files: dict[str, bytes]) -> None:
        path = value["path"]
        if kind == "deletedFile":
            if path not in files:
                raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            del files[path]
        elif kind == "lfsFile":
            blob = self.hub.blobs.get(value["oid"])
            if blob is None or len(blob) != value["size"] or value["algo"] != "sha256":
                raise Refusal(400, f"LFS pointer to an object that has not arrived: {path}")
            files[path] = blob
        elif kind == "file" and value["encoding"] == "base64":
            files[path] = base64.b64decode(value["content"], validate=True)
        else:
            raise Refusal(400, f"unknown operation {kind}")

    # ------------------------------------------------------------------------------------------ tags

    def create_tag(self, call: Call, names: dict[str, str], query: dict[str, str]) -> None:
        repo = self.repo(names["repo"])
        tag = call.json["tag"]
        if repo.tree(names["rev"]) is None:
            raise Refusal(404, f"no revision {names['rev']}", "RevisionNotFound")
        if tag in repo.tags:
            raise Refusal(409, f"Tag reference exists already: {tag}")
        repo.tags[tag] = names["rev"]
        self.reply({})

    def delete_tag(self, call: Call, names: dict[str, str], query: dict[str, str]) -> None:
        repo = self.repo(names["repo"])
        if repo.tags.pop(names["rev"], None) is None:
            raise Refusal(404, f"no tag {names['rev']}", "RevisionNotFound")
        self.reply({})

    # ------------------------------------------------------------------------------------------ jobs

    def run_job(self, call: Call, names: dict[str, str], query: dict[str, str]) -> None:
        spec = call.json
        for key in ("command", "flavor", "dockerImage"):
            if not spec.get(key):
                raise Refusal(400, f"want {key}")
        label = re.compile(r"[A-Za-z0-9_-]*")
        if not all(label.fullmatch(text) for item in spec.get("labels", {}).items() for text in item):
            raise Refusal(400, f"labels may hold letters, digits, - and _ only: {spec['labels']}")
        with self.hub.lock:
            job = self.hub.jobs.setdefault(f"job{len(self.hub.jobs)}", Job(f"job{len(self.hub.jobs)}", spec))
        self.hub.on_job(job)
        self.reply(self._job(job))

    def _job(self, job: Job) -> dict[str, Any]:
        return {
            "id": job.id,
            "createdAt": "2026-01-01T00:00:00.000Z",
            "dockerImage": job.spec["dockerImage"],
            "command": job.spec["command"],
            "arguments": [],
            "environment": job.spec.get("environment", {}),
            "secrets": {},
            "flavor": job.spec["flavor"],
            "labels": job.spec.get("labels", {}),
            "status": {"stage": job.stage, "message": None},
            "owner": {"id": "1", "name": USER, "type": "user"},
        }

    def job(self, names: dict[str, str]) -> Job:
        if names["job"] not in self.hub.jobs or names["ns"] != USER:
            raise Refusal(404, "no such job")
        return self.hub.jobs[names["job"]]

    def inspect_job(self, call: Call, names: dict[str, str], query: dict[str, str]) -> None:
        self.reply(self._job(self.job(names)))

    def cancel_job(self, call: Call, names: dict[str, str], query: dict[str, str]) -> None:
        self.job(names).end("CANCELED")
        self.reply({})

    def job_logs(self, call: Call, names: dict[str, str], query: dict[str, str]) -> None:
        """Server-sent events until the job has ended and all is said."""
        job = self.job(names)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        sent = 0
        while True:
            with job.more:
                job.more.wait_for(lambda: len(job.log) > sent or job.stage != "RUNNING")  # noqa: B023
                lines, over = job.log[sent:], job.stage != "RUNNING"
            for line in lines:
                event = json.dumps({"data": line, "timestamp": f"2026-01-01T00:00:{sent % 60:02d}.000Z"})
                self.wfile.write(f"data: {event}\n\n".encode())
                sent += 1
            self.wfile.flush()
            job.log_read.set()
            if over and sent == len(job.log):
                self.close_connection = True
                return


_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
_REV = r"(?P<rev>[^/]+)"
_JOB = r"/api/jobs/(?P<ns>[\w-]+)/(?P<job>\w+)"
ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", r"/api/whoami-v2", _Handler.whoami),
    ("POST", r"/api/repos/create", _Handler.create_repo),
    ("POST", r"/api/validate-yaml", _Handler.validate_yaml),
    ("GET", rf"/api/datasets/{_REPO}/auth-check/write", _Handler.auth_check),
    ("GET", rf"/api/datasets/{_REPO}(/revision/{_REV})?", _Handler.info),
    ("GET", rf"/api/datasets/{_REPO}/tree/{_REV}", _Handler.tree),
    ("GET|HEAD", rf"/datasets/{_REPO}/resolve/{_REV}/(?P<path>.+)", _Handler.resolve),
    ("POST", rf"/api/datasets/{_REPO}/preupload/{_REV}", _Handler.preupload),
    ("POST", rf"/datasets/{_REPO}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/blob/(?P<oid>[0-9a-f]{64})", _Handler.put_blob),
    ("POST", rf"/api/datasets/{_REPO}/commit/{_REV}", _Handler.commit),
    ("POST", rf"/api/datasets/{_REPO}/tag/{_REV}", _Handler.create_tag),
    ("DELETE", rf"/api/datasets/{_REPO}/tag/{_REV}", _Handler.delete_tag),
    ("POST", r"/api/jobs/(?P<ns>[\w-]+)", _Handler.run_job),
    ("GET", _JOB, _Handler.inspect_job),
    ("POST", rf"{_JOB}/cancel", _Handler.cancel_job),
    ("GET", rf"{_JOB}/logs", _Handler.job_logs),
]
