"""A small Hub on this machine: the endpoints of repositories that huggingface_hub speaks, and faults on demand.

    with LocalHub() as hub:
        run(..., env=os.environ | hub.environment(tmp_path / "home"))

It keeps everything in memory: commits that are whole or absent, branches, private repositories, LFS for safetensors
and Parquet, tokens that may write, only read, or are unknown. It does not speak Xet, so clients have it switched off.
A data set is a repository whose id begins with `datasets/`.
"""

import base64
import hashlib
import json
import re
import socket
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from urllib.parse import unquote, urlsplit

import yaml


WRITE_TOKEN, READ_TOKEN = "hf_may_write", "hf_may_read"
USER = "someone"  # owner of both tokens
DATASETS = "datasets/"


class LocalHub:
    """Serves `http://127.0.0.1:<port>` while its context lasts.

    `requests` lists what was asked, as `"POST /api/repos/create"`. `breaks[what] = n` cuts the connection in the
    middle of the next `n` requests of a kind: `upload` (of an LFS object), `commit` or `download`.
    """

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}  # LFS: SHA-256 -> content
        self.requests: list[str] = []
        self.breaks: Counter[str] = Counter()
        self.lock = Lock()

    def __enter__(self) -> "LocalHub":
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.hub = self
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()
        return self

    def __exit__(self, *error) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def environment(self, home: Path, token: str | None = WRITE_TOKEN) -> dict[str, str]:
        """Variables that send a client here, with the empty cache `home`."""
        variables = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
        variables |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        return variables | ({"HF_TOKEN": token} if token else {})


class Repository:
    def __init__(self, private: bool):
        self.private = private
        self.commits: dict[str, dict[str, bytes]] = {}  # id -> path -> content
        self.branches: dict[str, str] = {}
        self.commit("main", {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        history = f"{len(self.commits)} {branch} {sorted(files)}"
        oid = hashlib.sha1(history.encode()).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        return oid

    def find(self, revision: str) -> str | None:
        """Id of the commit that a branch, or the id itself, names."""
        oid = self.branches.get(revision, revision)
        return oid if oid in self.commits else None

    def files(self, branch: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches[branch]]


class Answer(Exception):
    """Ends a request: status, headers and a body that becomes JSON."""

    def __init__(self, status: int, body=None, **headers: str):
        self.status = status
        self.body = body
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def is_lfs(path: str) -> bool:
    return path.endswith((".safetensors", ".parquet"))


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def oid_of(path: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if is_lfs(path) else git_oid(content)


def describe(path: str, content: bytes) -> dict:
    entry = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
    if is_lfs(path):
        entry["lfs"] = {"oid": oid_of(path, content), "size": len(content), "pointerSize": 134}
    return entry


def judge_card(text: str, repo_type: str = "model") -> list[str]:
    """What is wrong with the metadata of a card: YAML, types, a model's licence, and the fields of every result."""
    block = re.match(r"---\n(.*?\n)---\n", text, flags=re.DOTALL)
    try:
        data = yaml.safe_load(block[1]) if block else None
    except yaml.YAMLError as error:
        return [f"not YAML: {error}"]
    if not isinstance(data, dict):
        return ["there is no metadata"]
    errors = []
    license = data.get("license", "unknown" if repo_type == "dataset" else None)
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", str(license)):
        errors.append('"license" must be the id of a licence')
    for key in ("tags", "datasets"):
        if not all(isinstance(value, str) for value in data.get(key) or []):
            errors.append(f'"{key}" must be a list of texts')
    for model in data.get("model-index", []):
        for result in model["results"]:
            named = [model.get("name"), result["task"].get("type")]
            named += [result["dataset"].get(key) for key in ("type", "name")]
            named += [metric.get("type") for metric in result["metrics"]]
            numbers = [metric.get("value") for metric in result["metrics"]]
            if not (all(named) and numbers and all(isinstance(number, int | float) for number in numbers)):
                errors.append('"model-index" has an incomplete result')
    return errors


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments) -> None:
        pass  # `requests` has it

    def handle_request(self) -> None:
        self.hub: LocalHub = self.server.hub
        path = unquote(urlsplit(self.path).path)
        raw = urlsplit(self.path).path  # a slash inside a revision is %2F here
        self.hub.requests.append(f"{self.command} {path}")
        self.body_read = False
        try:
            for methods, pattern, action in ROUTES:
                match = re.fullmatch(pattern, raw)
                if match and self.command in methods.split():
                    return action(self, *(unquote(group) for group in match.groups()))
            raise Answer(404, {"error": f"{self.command} {path} is unknown here"})
        except Answer as answer:
            self.body()  # a connection that is kept must not hold the rest of a request
            content = json.dumps(answer.body).encode()
            self.send(answer.status, content, {"Content-Type": "application/json"} | answer.headers)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def send(self, status: int, content: bytes, headers: dict[str, str], broken: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if broken else content)
        if broken:
            self.cut()

    def body(self) -> bytes:
        if self.body_read:
            return b""
        self.body_read = True
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def json(self) -> dict:
        return json.loads(self.body())

    def breaks_now(self, what: str) -> bool:
        with self.hub.lock:
            now = self.hub.breaks[what] > 0
            self.hub.breaks[what] -= now
        return now

    def cut(self) -> None:
        """Ends the connection in the middle of whatever it carries."""
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    # Who asks, for what.

    def check_token(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        if token not in (None, WRITE_TOKEN, READ_TOKEN):
            message = "Invalid credentials in Authorization header"
            raise Answer(401, {"error": message}, X_Error_Message=message)
        return token

    def check_may_write(self, repo_id: str) -> None:
        token = self.check_token()
        if token is None:
            raise Answer(401, {"error": "Invalid username or password."})
        if token == READ_TOKEN or repo_id.removeprefix(DATASETS).partition("/")[0] != USER:
            message = f"You don't have the rights to write to {repo_id}"
            raise Answer(403, {"error": message}, X_Error_Message=message)

    def repository(self, repo_id: str) -> Repository:
        token = self.check_token()
        repository = self.hub.repositories.get(repo_id)
        if repository is None or (repository.private and token is None):
            status = 404 if token else 401
            raise Answer(status, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        return repository

    def find(self, repo_id: str, revision: str) -> tuple[Repository, str]:
        repository = self.repository(repo_id)
        oid = repository.find(revision)
        if oid is None:
            message = f"Invalid rev id: {revision}"
            raise Answer(404, {"error": message}, X_Error_Code="RevisionNotFound", X_Error_Message=message)
        return repository, oid

    # The endpoints, in the order of ROUTES.

    def whoami(self) -> None:
        if self.check_token() is None:
            raise Answer(401, {"error": "Invalid username or password."})
        raise Answer(200, {"type": "user", "name": USER, "orgs": []})

    def create(self) -> None:
        asked = self.json()
        repo_id = f"{asked.get('organization') or USER}/{asked['name']}"
        repo_id = DATASETS * (asked.get("type") == "dataset") + repo_id
        self.check_may_write(repo_id)
        answer = {"url": f"{self.hub.url}/{repo_id}", "name": repo_id}
        with self.hub.lock:
            if repo_id in self.hub.repositories:
                raise Answer(409, answer | {"error": "You already created this model repo"})
            private = bool(asked.get("private")) or asked.get("visibility") == "private"
            self.hub.repositories[repo_id] = Repository(private)
        raise Answer(200, answer)

    def validate_yaml(self) -> None:
        asked = self.json()
        errors = judge_card(asked["content"], asked.get("repoType"))
        raise Answer(400 if errors else 200, {"errors": [{"message": message} for message in errors], "warnings": []})

    def info(self, repo_id: str, revision: str = "main") -> None:
        repository, oid = self.find(repo_id, revision)
        siblings = [{"rfilename": path} for path in sorted(repository.commits[oid])]
        name = repo_id.removeprefix(DATASETS)
        facts = {"id": name, "modelId": name, "sha": oid, "private": repository.private, "tags": []}
        raise Answer(200, facts | {"siblings": siblings})

    def branch(self, repo_id: str, branch: str) -> None:
        self.check_may_write(repo_id)
        repository = self.repository(repo_id)
        repository.branches[branch] = repository.branches["main"]
        raise Answer(200, {})

    def refs(self, repo_id: str) -> None:
        branches = self.repository(repo_id).branches
        entries = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid} for name, oid in branches.items()]
        raise Answer(200, {"branches": entries, "converts": [], "tags": []})

    def tree(self, repo_id: str, revision: str, folder: str = "") -> None:
        repository, oid = self.find(repo_id, revision)
        inside = f"{folder}/" if folder else ""
        files = {path: content for path, content in repository.commits[oid].items() if path.startswith(inside)}
        if not files:
            raise Answer(404, {"error": "no such folder"}, X_Error_Code="EntryNotFound", X_Repo_Commit=oid)
        entries = {}
        for path, content in sorted(files.items()):
            child, _, deeper = path[len(inside) :].partition("/")
            entries[inside + child] = {"type": "directory", "path": inside + child, "oid": oid, "size": 0}
            if not deeper or "recursive=true" in urlsplit(self.path).query.lower():
                entries[path] = describe(path, content)
        raise Answer(200, list(entries.values()))

    def paths_info(self, repo_id: str, revision: str) -> None:
        repository, oid = self.find(repo_id, revision)
        files = repository.commits[oid]
        raise Answer(200, [describe(path, files[path]) for path in self.json()["paths"] if path in files])

    def preupload(self, repo_id: str, revision: str) -> None:
        self.check_may_write(repo_id)
        repository, oid = self.find(repo_id, revision)
        present = repository.commits[oid]
        answers = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if is_lfs(file["path"]) else "regular",
                "shouldIgnore": False,
                "oid": oid_of(file["path"], present[file["path"]]) if file["path"] in present else None,
            }
            for file in self.json()["files"]
        ]
        raise Answer(200, {"files": answers})

    def lfs_batch(self, repo_id: str) -> None:
        self.check_may_write(repo_id)
        objects = []
        for entry in self.json()["objects"]:
            answer = {"oid": entry["oid"], "size": entry["size"]}
            if entry["oid"] not in self.hub.objects:
                answer["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{entry['oid']}"}}
            objects.append(answer)
        raise Answer(200, {"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid: str) -> None:
        if self.breaks_now("upload"):
            self.rfile.read(100)
            return self.cut()
        content = self.body()
        if hashlib.sha256(content).hexdigest() != oid:
            raise Answer(400, {"error": "the content is not what was announced"})
        self.hub.objects[oid] = content
        raise Answer(200, {})

    def commit(self, repo_id: str, branch: str) -> None:
        self.check_may_write(repo_id)
        if self.breaks_now("commit"):
            self.rfile.read(100)
            return self.cut()
        with self.hub.lock:
            repository, oid = self.find(repo_id, branch)
            files = dict(repository.commits[oid])
            for line in self.body().splitlines():
                operation = json.loads(line)
                value = operation["value"]
                if operation["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif operation["key"] == "lfsFile":
                    files[value["path"]] = self.hub.objects[value["oid"]]
                elif operation["key"] == "deletedFile":
                    del files[value["path"]]
            oid = repository.commit(branch, files)
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{oid}"}
        raise Answer(200, answer)

    def resolve(self, repo_id: str, revision: str, path: str) -> None:
        repository, oid = self.find(repo_id, revision)
        content = repository.commits[oid].get(path)
        if content is None:
            raise Answer(404, {"error": "no such file"}, X_Error_Code="EntryNotFound", X_Repo_Commit=oid)
        headers = {"X-Repo-Commit": oid, "ETag": f'"{oid_of(path, content)}"', "Accept-Ranges": "bytes"}
        if is_lfs(path):
            headers |= {"X-Linked-Etag": f'"{oid_of(path, content)}"', "X-Linked-Size": str(len(content))}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            start, end = int(asked[1]), int(asked[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            content = content[start : end + 1]
        broken = self.command == "GET" and self.breaks_now("download")
        self.send(206 if asked else 200, content, headers, broken)


REPO, PART = rf"((?:{DATASETS})?[^/]+/[^/]+)", r"([^/]+)"
API = rf"/api/(?:models/|(?={DATASETS})){REPO}"
ROUTES = [
    ("GET", r"/api/whoami-v2", Handler.whoami),
    ("POST", r"/api/repos/create", Handler.create),
    ("POST", r"/api/validate-yaml", Handler.validate_yaml),
    ("GET", API, Handler.info),
    ("GET", rf"{API}/revision/{PART}", Handler.info),
    ("POST", rf"{API}/branch/{PART}", Handler.branch),
    ("GET", rf"{API}/refs", Handler.refs),
    ("GET", rf"{API}/tree/{PART}", Handler.tree),
    ("GET", rf"{API}/tree/{PART}/(.+)", Handler.tree),
    ("POST", rf"{API}/paths-info/{PART}", Handler.paths_info),
    ("POST", rf"{API}/preupload/{PART}", Handler.preupload),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", r"/lfs/([0-9a-f]{64})", Handler.lfs_upload),
    ("POST", rf"{API}/commit/{PART}", Handler.commit),
    ("GET HEAD", rf"/{REPO}/resolve/{PART}/(.+)", Handler.resolve),
]
