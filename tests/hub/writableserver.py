"""A Hub on 127.0.0.1 that takes files, too: repositories, branches, LFS in one or several parts, and atomic commits."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.corpus.hubserver import Fault, Handler, HubServer, git_id, sha256

API = re.compile(r"/api/(model|dataset|space)s/([^/]+/[^/]+?)(?:/(\w[\w-]*)(?:/([^/]+)(?:/(.+))?)?)?")
RESOLVE = re.compile(r"(?:/(dataset|space)s)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
BATCH = re.compile(r"(?:/(dataset|space)s)?/([^/]+/[^/]+)\.git/info/lfs/objects/batch")
PAGE = 7  # entries in one answer of a listing
PART = 100_000  # bytes; a larger file comes in parts
SMALL = 10_000  # bytes of a file that git keeps by itself
FIRST = {".gitattributes": b"*.safetensors filter=lfs\n"}


@dataclass
class Repo:
    private: bool
    branches: dict[str, str] = field(default_factory=dict)  # name -> commit
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    sdk: str | None = None  # of a Space

    def commit(self, branch: str, files: dict[str, bytes], parent: str = "") -> str:
        commit = git_id(repr((parent, len(self.commits), sorted(files))).encode())
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit

    def at(self, revision: str) -> str | None:
        revision = unquote(revision)
        return self.branches.get(revision) or (revision if revision in self.commits else None)


class WritableHub(HubServer):
    """tokens: each with what it may do, "write" or "read". route_faults: (route, fault), each taken by the next request
    of that route; of kind "status", "drop" (closed before anything was done) or "lost" (done, and closed unanswered).
    """

    def __init__(self) -> None:
        super().__init__({})
        self.stock: dict[str, Repo] = {}  # owner/name; with "dataset:" before it for other kinds
        self.lfs: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.tokens = {"hf_write": "write", "hf_read": "read"}
        self.accounts: dict[str, Any] = {}  # what is told of the owner of a token, if not the usual
        self.route_faults: list[tuple[str, Fault]] = []
        self.calls: list[str] = []
        self.received = 0  # bytes of files
        self.heard: set[str] = set()  # tokens
        self.arrived: list[str] = []  # hashes of large files, each time that all of one has come
        self.before: Callable[[str], None] = lambda route: None

    @property
    def handler(self) -> type[Handler]:
        return _Writer

    def make(self, repo: str, files: dict[str, bytes], private: bool = False, branch: str = "main") -> Repo:
        made = self.stock.setdefault(repo, Repo(private, {}))
        made.commit(branch, {**FIRST, **files})
        return made

    def head(self, repo: str, branch: str = "main") -> dict[str, bytes]:
        """What a branch holds, without what every repository has."""
        found = self.stock[repo].commits[self.stock[repo].branches[branch]]
        return {name: data for name, data in found.items() if name not in FIRST}

    def in_lfs(self, name: str, data: bytes) -> bool:
        return len(data) > SMALL or name.endswith((".safetensors", ".pt", ".pkl"))

    def files(self, repo: str, revision: str) -> dict[str, bytes] | None:
        found = self.stock.get(repo)
        return found.commits.get(found.at(revision) or "") if found else None


class _Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = "", url: str = "") -> None:
        self.status, self.code, self.message, self.url = status, code, message, url


class _Closed(Exception):
    """The connection ends here."""


class _Writer(Handler):
    hub: WritableHub

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        url = urlsplit(self.path)
        path, self.query = url.path, parse_qs(url.query)
        try:
            if resolve := RESOLVE.fullmatch(unquote(path)):
                name = self._key(resolve[1], resolve[2])
                self._open(name)
                commit = self.hub.stock[name].at(resolve[3])
                self._take_fault("resolve")
                self._resolve(name, commit or "", resolve[4])
                return
            if stored := re.fullmatch(r"/storage/([^/]+/[^/]+)/([^/]+)/(.+)", unquote(path)):
                self._content(stored[1], stored[2], stored[3])
                return
            route, do = self._route(path)
            self.hub.before(route)
            fault = self._take_fault(route)
            answer = do()
            if fault == "lost":
                raise _Closed
            headers = {"Content-Type": "application/json"}
            if isinstance(answer, tuple):
                answer, more = answer
                headers |= more
            self._answer(200, headers, json.dumps(answer).encode())
        except _Refused as error:
            self._drain()
            headers = {"X-Error-Code": error.code, "X-Error-Message": error.message}
            self._answer(error.status, headers, json.dumps({"error": error.message, "url": error.url}).encode())
        except (_Closed, BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _take_fault(self, route: str) -> str:
        with self.hub.lock:
            self.hub.calls.append(route)
            wanted = next((one for one in self.hub.route_faults if one[0] == route), None)
            if wanted:
                self.hub.route_faults.remove(wanted)
        self.body: bytes | None = None
        if wanted and wanted[1].kind == "status":
            self._drain()
            self.send_response(wanted[1].status)
            if wanted[1].retry_after:
                self.send_header("Retry-After", wanted[1].retry_after)
            said = self.headers.get("Authorization", "")  # a server may repeat it
            self.send_header("X-Error-Message", f"not now, {said}")
            self.send_header("Content-Length", "0")
            self.send_header("Connection", "close")
            self.end_headers()
            raise _Closed
        if wanted and wanted[1].kind == "drop":
            self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            raise _Closed
        return wanted[1].kind if wanted else ""

    def _drain(self) -> bytes:
        if getattr(self, "body", None) is None:
            self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return self.body or b""

    def _json(self) -> Any:
        return json.loads(self._drain())

    def _key(self, kind: str | None, name: str) -> str:
        return name if kind in (None, "model") else f"{kind}:{name}"

    def _may(self) -> str:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token:
            self.hub.heard.add(token)
            if token not in self.hub.tokens:
                raise _Refused(401, message="Invalid credentials in Authorization header")
        return self.hub.tokens.get(token, "")

    def _open(self, name: str, write: bool = False) -> Repo:
        may = self._may()
        repo = self.hub.stock.get(name)
        if repo is None or (repo.private and not may):
            raise _Refused(404 if may else 401, "RepoNotFound", "Repository not found")
        if write and may != "write":
            raise _Refused(403, message="you have no write access")
        return repo

    def _route(self, path: str) -> tuple[str, Callable[[], Any]]:
        if path == "/api/repos/create":
            return "create", self._create
        if path == "/api/whoami-v2":
            return "whoami", self._whoami
        if path == "/api/validate-yaml":
            return "validate", lambda: {"errors": [], "warnings": []} if self._json() else {}
        if batch := BATCH.fullmatch(unquote(path)):
            return "batch", lambda: self._batch(self._key(batch[1], batch[2]))
        if sent := re.fullmatch(r"/lfs/(put|part|complete|verify)/([0-9a-f]{64})/(\d+)", path):
            return sent[1], lambda: self._lfs(sent[1], sent[2], int(sent[3]))
        if api := API.fullmatch(path):
            name, what, revision = self._key(api[1], unquote(api[2])), api[3], api[4] or "main"
            if what in (None, "revision"):
                return "info", lambda: self._info(name, revision)
            if what == "tree":
                return "tree", lambda: self._tree(name, revision, unquote(api[5] or ""))
            if what == "paths-info":
                return "paths", lambda: self._paths(name, revision)
            if what in ("settings", "branch", "preupload", "commit"):
                return what, lambda: getattr(self, f"_{what}")(name, unquote(revision))
        raise _Refused(404, message=f"no route {path}")

    def _whoami(self) -> Any:
        role = self._may()
        if not role:
            raise _Refused(401, message="Invalid username or password.")
        token = self.headers["Authorization"].removeprefix("Bearer ")
        access = {"displayName": "mine", "role": role}
        usual = {"type": "user", "name": "me", "orgs": [], "auth": {"type": "access_token", "accessToken": access}}
        return self.hub.accounts.get(token, usual)

    def _create(self) -> Any:
        asked = self._json()
        if self._may() != "write":
            raise _Refused(403 if self._may() else 401, message="you may not create repositories")
        name = self._key(asked.get("type", "model"), f"{asked['organization']}/{asked['name']}")
        url = f"{self.hub.url}/{name.replace(':', 's/')}"
        if name in self.hub.stock:
            raise _Refused(409, message="You already created this repo", url=url)
        sdk = asked.get("sdk")
        if (asked.get("type") == "space") != (sdk in ("static", "gradio", "docker")):
            raise _Refused(400, message="a Space, and nothing else, is made with an sdk")
        with self.hub.lock:
            self.hub.stock[name] = Repo(asked.get("visibility", "public") == "private", sdk=sdk)
            self.hub.stock[name].commit("main", dict(FIRST))
        return {"url": url, "name": name}

    def _commit_of(self, repo: Repo, revision: str) -> str:
        commit = repo.at(revision)
        if commit is None:
            raise _Refused(404, "RevisionNotFound", "no such revision")
        return commit

    def _info(self, name: str, revision: str) -> Any:
        repo = self._open(name)
        commit = self._commit_of(repo, revision)
        siblings = [self.hub._sibling(path, data, True) for path, data in repo.commits[commit].items()]
        return {"id": name.rpartition(":")[2], "sha": commit, "private": repo.private, "siblings": siblings}

    def _tree(self, name: str, revision: str, folder: str) -> Any:
        repo = self._open(name)
        files = repo.commits[self._commit_of(repo, revision)]
        start = int(self.query.get("cursor", ["0"])[0])
        below = [path for path in sorted(files) if not folder or path.startswith(f"{folder}/")]
        entries = [self._entry(path, files[path]) for path in below]
        more = {}
        if start + PAGE < len(entries):
            following = f"{self.hub.url}{urlsplit(self.path).path}?recursive=true&cursor={start + PAGE}"
            more = {"Link": f'<{following}>; rel="next"'}
        return entries[start : start + PAGE], more

    def _entry(self, path: str, data: bytes) -> dict[str, Any]:
        said = self.hub._sibling(path, data, True)
        entry = {"type": "file", "path": path, "size": len(data), "oid": said["blobId"]}
        if "lfs" in said:
            lfs = said["lfs"]
            entry["lfs"] = {"oid": lfs["sha256"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
        return entry

    def _paths(self, name: str, revision: str) -> Any:
        """Asked by a client that copies files within a commit."""
        asked = parse_qs(self._drain().decode())["paths"]
        repo = self._open(name)
        files = repo.commits[self._commit_of(repo, revision)]
        return [self._entry(path, files[path]) for path in asked if path in files]

    def _settings(self, name: str, _: str) -> Any:
        asked = self._json()
        self._open(name, write=True).private = asked["visibility"] == "private"
        return {}

    def _branch(self, name: str, branch: str) -> Any:
        repo = self._open(name, write=True)
        self._drain()
        repo.branches.setdefault(branch, repo.branches["main"])
        return {}

    def _preupload(self, name: str, revision: str) -> Any:
        asked = self._json()
        repo = self._open(name, write=True)
        there = repo.commits[self._commit_of(repo, revision)]
        answers = []
        for file in asked["files"]:
            lfs = self.hub.in_lfs(file["path"], b"x" * file["size"])
            data = there.get(file["path"])
            oid = None if data is None else sha256(data) if lfs else git_id(data)
            answers.append(
                {"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, "oid": oid}
            )
        return {"files": answers}

    def _batch(self, name: str) -> Any:
        asked = self._json()
        self._open(name, write=True)
        objects = []
        for wanted in asked["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            answer: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in self.hub.lfs:
                link = f"{self.hub.url}/lfs/{{}}/{oid}/{{}}".format
                upload: dict[str, Any] = {"href": link("put", size)}
                if size > PART:
                    count = -(-size // PART)
                    upload["href"] = link("complete", count)
                    upload["header"] = {"chunk_size": str(PART)}
                    upload["header"] |= {f"{n + 1:05d}": link("part", n) for n in range(count)}
                answer["actions"] = {"upload": upload, "verify": {"href": link("verify", size), "header": {}}}
            objects.append(answer)
        return {"transfer": "basic", "objects": objects}

    def _lfs(self, what: str, oid: str, number: int) -> Any:
        data = self._drain()
        with self.hub.lock:
            if what == "verify":
                self._may()
                if len(self.hub.lfs.get(oid, b"")) != number:
                    raise _Refused(422, message="the object is not here")
                return {}
            if what == "part":
                self.hub.received += len(data)
                self.hub.parts[oid, number] = data
                return {}, {"ETag": f'"{git_id(data)}"'}
            if what == "put":
                self.hub.received += len(data)
            else:
                data = b"".join(self.hub.parts[oid, n] for n in range(number))
            if sha256(data) != oid:
                raise _Refused(400, message="the content has another hash")
            self.hub.lfs[oid] = data
            self.hub.arrived.append(oid)
            return {}

    def _commit(self, name: str, revision: str) -> Any:
        lines = [json.loads(line) for line in self._drain().splitlines()]
        repo = self._open(name, write=True)
        if revision not in repo.branches:
            raise _Refused(404, "RevisionNotFound", "no such branch")
        with self.hub.lock:
            parent = repo.branches[revision]
            files = dict(repo.commits[parent])
            for line in lines:
                value = line["value"]
                if line["key"] == "header":
                    if value.get("parentCommit", parent) != parent:
                        raise _Refused(412, message="the branch has moved")
                elif line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                    self.hub.received += len(files[value["path"]])
                elif line["key"] == "lfsFile":
                    if value["oid"] not in self.hub.lfs:
                        raise _Refused(400, message=f"there is no object {value['oid']}")
                    files[value["path"]] = self.hub.lfs[value["oid"]]
                elif line["key"] == "deletedFile":
                    if files.pop(value["path"], None) is None:
                        raise _Refused(404, "EntryNotFound", "A file with this name doesn't exist")
                else:
                    raise _Refused(400, message=f"unknown operation {line['key']}")
            commit = repo.commit(revision, files, parent)
        return {"commitUrl": f"{self.hub.url}/{name.replace(':', 's/')}/commit/{commit}", "commitOid": commit}
