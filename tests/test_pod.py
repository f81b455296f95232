"""What runpod_onstart.sh does, in a throw-away root: real git, and stubs of what changes the machine."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "runpod_onstart.sh"
GIT = shutil.which("git") or "git"
SECRETS = {
    "GITHUB_PAT": "ghp_s3cretOfGitHub$(id)'\"%s\\",
    "HF_TOKEN": "hf_s3cretOfHuggingFace",
    "WANDB_API_KEY": "s3cretOfWandb0123456789",
}
NAME = 'Zoë "the $(touch pwned)" O\'Neil; `id`'
PACKAGES = "git nano screen vim build-essential python3-dev python3-venv libnuma1 pkg-config curl wget unzip"


class Pod:
    """A root with /start.sh, stubs first in PATH, and a repository that stands for GitHub's."""

    def __init__(self, folder: Path) -> None:
        self.root, self.home, self.log = folder / "pod", folder / "pod" / "root", folder / "log"
        self.github = folder / "github"
        bin = folder / "bin"
        for made in (self.home, bin, self.log):
            made.mkdir(parents=True)
        note = f'printf "%s\\n" "$*" >>"{self.log}/$(basename "$0")"\n'
        self.write(bin / "apt-get", f'#!/bin/sh\n{note}[ ! -e "{self.log}/no-$1" ] || exit 100\n')
        self.write(bin / "service", f"#!/bin/sh\n{note}")
        # Every git, with its arguments and those of the programs it starts, as `ps` would show them.
        watch = f'tr "\\0" " " </proc/$$/cmdline >>"{self.log}/argv"; printf "%s\\n" "$*" >>"{self.log}/argv"\n'
        self.write(bin / "git", f'#!/bin/sh\n{watch}exec "{GIT}" "$@"\n')
        self.write(self.root / "start.sh", f'#!/bin/sh\nenv >"{self.log}/started"\npwd >>"{self.log}/where"\n')
        self.env = {
            "PATH": f"{bin}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "NANOCHAT_POD_ROOT": str(self.root),
            "NANOCHAT_POD_GITHUB": str(self.github),
            "NANOCHAT_POD_PAUSE": "0",
            "LANG": "C.UTF-8",
        }
        self.folder = self.root / "workspace" / "nanochat"

    @staticmethod
    def write(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def git(self, *args: str, at: Path | None = None) -> str:
        call = [GIT, "-c", "user.name=x", "-c", "user.email=x@y", "-C", str(at or self.folder), *args]
        return subprocess.run(call, check=True, capture_output=True, text=True, env=self.env).stdout.strip()

    def publish(self, owner: str = "originalzen", text: str = "first") -> Path:
        """A commit to the owner's repository."""
        place = self.github / owner / "nanochat.git"
        if not place.exists():
            place.mkdir(parents=True)
            self.git("init", "-q", "-b", "master", at=place)
        (place / "file").write_text(text)
        self.git("add", ".", at=place)
        self.git("commit", "-qm", text, at=place)
        return place

    def start(self, script: str = "", bash: tuple[str, ...] = (), **env: str) -> str:
        """Start it through a pipe, as a pod does; returns all that it printed."""
        done = subprocess.run(
            ["bash", *bash],
            input=script or SCRIPT.read_text(),
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=60,
            cwd="/",
        )
        assert done.returncode == 0, done.stderr
        assert (self.log / "started").exists(), "a pod must come up"
        return done.stdout + done.stderr

    @property
    def started(self) -> str:
        return (self.log / "started").read_text()

    def kept(self) -> Iterator[tuple[Path, bytes]]:
        """All that was written, but for what /start.sh got."""
        for path in sorted([*self.root.rglob("*"), *self.log.iterdir()]):
            if path.is_file() and path.name != "started":
                yield path, path.read_bytes()


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    made = Pod(tmp_path)
    made.publish()
    return made


def holds_no_secret(said: str, pod: Pod) -> None:
    for path, data in [(Path("output"), said.encode()), *pod.kept()]:
        for name, secret in SECRETS.items():
            token = base64.b64encode(f"x-access-token:{secret}".encode())
            assert secret.encode() not in data and token not in data, (name, path)
            assert secret[:12].encode() not in data, (name, path)


def test_a_fresh_pod(pod: Pod) -> None:
    key = "ssh-ed25519 AAAAC3Nza my laptop\nssh-rsa AAAAB3Nza $(id)\r\n"
    said = pod.start(
        **SECRETS, GIT_USER_NAME=NAME, GIT_USER_EMAIL="zoë@example.com", PUBLIC_KEY=key, RUNPOD_POD_ID="abc123"
    )
    install = next(line for line in (pod.log / "apt-get").read_text().splitlines() if line.startswith("install "))
    assert {*PACKAGES.split(), "openssh-server"} <= set(install.split())
    assert (pod.log / "service").read_text() == "ssh start\n"
    assert (pod.folder / "file").read_text() == "first"
    assert pod.git("config", "--global", "user.name") == NAME
    assert pod.git("config", "--global", "user.email") == "zoë@example.com"
    keys = pod.home / ".ssh" / "authorized_keys"
    assert keys.read_text() == "ssh-ed25519 AAAAC3Nza my laptop\nssh-rsa AAAAB3Nza $(id)\n"
    assert keys.stat().st_mode & 0o777 == 0o600 and keys.parent.stat().st_mode & 0o777 == 0o700
    assert f"HUGGING_FACE_HUB_TOKEN={SECRETS['HF_TOKEN']}\n" in pod.started
    assert f"WANDB_API_KEY={SECRETS['WANDB_API_KEY']}\n" in pod.started
    assert (pod.log / "where").read_text() == f"{pod.folder}\n"
    assert "screen -L -Logfile speedrun.log -S speedrun bash speedrun.sh" in said
    assert "https://abc123-8000.proxy.runpod.net" in said and "-m scripts.chat_web," in said
    assert pod.git("rev-parse", "--short", "HEAD") in said and "HF_TOKEN:       set" in said
    assert not list(pod.root.rglob("pwned")) and not Path("/pwned").exists()
    holds_no_secret(said, pod)


def test_twice_is_as_good_as_once_and_brings_what_is_new(pod: Pod) -> None:
    wish = {**SECRETS, "PUBLIC_KEY": "ssh-ed25519 AAAAC3Nza me", "GIT_USER_NAME": NAME}
    pod.start(**wish)
    before = {path: data for path, data in pod.kept() if pod.log not in path.parents and ".git" not in path.parts}
    pod.publish(text="second")
    said = pod.start(**wish)
    after = {path: data for path, data in pod.kept() if pod.log not in path.parents and ".git" not in path.parts}
    assert after == {**before, pod.folder / "file": b"second"}
    assert pod.git("config", "--get-all", f"credential.{pod.github}.helper").count("GITHUB_PAT") == 2  # one helper
    holds_no_secret(said, pod)


@pytest.mark.parametrize("how", ["diverged", "dirty", "no network", "unfinished", "not git", "no update", "no install"])
def test_the_pod_comes_up_whatever_fails(pod: Pod, how: str) -> None:
    pod.start()
    (pod.log / "started").unlink()
    if how == "diverged":
        (pod.folder / "mine").write_text("mine")
        pod.git("add", ".")
        pod.git("commit", "-qm", "mine")
        pod.publish(text="second")
    elif how == "dirty":
        (pod.folder / "file").write_text("my edit")
        pod.publish(text="second")
    elif how == "no network":
        pod.github.rename(pod.github.with_name("gone"))
    elif how == "unfinished":
        for name in ("packed-refs", "refs/heads/master", "refs/remotes/origin/master", "refs/remotes/origin/HEAD"):
            (pod.folder / ".git" / name).unlink(missing_ok=True)
    elif how == "not git":
        (pod.folder / ".git").rename(pod.folder / "git")
    else:
        (pod.log / how.replace(" ", "-")).touch()
        (pod.log / "apt-get").unlink()
    said = pod.start(**SECRETS)
    if how in ("diverged", "dirty", "no network"):
        assert "stays as it is: it could not be brought up to date" in said
        assert (pod.folder / "file").read_text() == ("my edit" if how == "dirty" else "first")
    elif how == "unfinished":
        assert (pod.folder / "file").read_text() == "first"
        assert len(list(pod.folder.parent.glob("nanochat.unfinished-*"))) == 1
    elif how == "not git":
        assert "no git repository" in said and (pod.folder / "git").exists()
    else:
        tries = (pod.log / "apt-get").read_text().splitlines()
        # Without a network nothing is tried one by one; a package that is not there keeps no other away.
        assert len(tries) == (3 if how == "no update" else 6 + 16)
        assert ("not all packages" if how == "no update" else "not installed: git nano") in said
    holds_no_secret(said, pod)


def test_a_repository_stays_where_git_is_missing(pod: Pod) -> None:
    """As where a pod without a network starts from an image without git."""
    pod.start()
    (pod.folder / "mine").write_text("a night's work")
    bin = pod.root.parent / "without_git"
    bin.mkdir()
    for folder in ("/bin", "/usr/bin"):
        for tool in Path(folder).iterdir():
            if tool.name != "git" and not (bin / tool.name).is_symlink():
                (bin / tool.name).symlink_to(tool)
    (pod.root.parent / "bin" / "git").unlink()
    (pod.log / "no-update").touch()
    said = pod.start(PATH=f"{pod.root.parent / 'bin'}:{bin}")
    assert "git is not installed" in said and (pod.folder / "mine").exists()
    assert [path.name for path in pod.folder.parent.iterdir()] == ["nanochat"]


@pytest.mark.parametrize("what", ["another user's", "without a commit on its branch"])
def test_a_repository_that_git_will_not_read_stays(pod: Pod, what: str) -> None:
    pod.start()
    if what == "another user's":
        if os.getuid():
            pytest.skip("needs root")
        for path in [pod.folder / ".git", *(pod.folder / ".git").rglob("*")]:
            os.chown(path, 1234, 1234)
    else:
        pod.git("checkout", "-q", "--orphan", "mine")
    said = pod.start()
    assert "nanochat is here already" in said and ("dubious" not in said)
    assert [path.name for path in pod.folder.parent.iterdir()] == ["nanochat"]


def test_no_network_at_the_first_start(pod: Pod) -> None:
    said = pod.start(NANOCHAT_POD_GITHUB="http://127.0.0.1:9", **SECRETS)
    assert "could not be cloned" in said and "nanochat: " in said and "(absent)" in said
    holds_no_secret(said, pod)


def test_a_token_that_an_older_script_left_is_taken_out(pod: Pod) -> None:
    """The seed's kept it in the remote's address; git wrote it into its log as well."""
    pod.start()
    secret = SECRETS["GITHUB_PAT"][:20]
    pod.git("remote", "set-url", "origin", f"https://{secret}@github.com/me/nanochat.git")
    pod.git("remote", "set-url", "--add", "--push", "origin", f"https://me:{secret}@github.com/me/nanochat.git")
    sub = pod.folder / ".git" / "modules" / "sub" / "config"
    sub.parent.mkdir(parents=True)
    sub.write_text(f'[remote "origin"]\n\turl = https://{secret}@github.com/me/sub.git\n')
    log = pod.folder / ".git" / "logs" / "HEAD"
    log.write_text(log.read_text().replace("clone: from ", f"clone: from https://{secret}@github.com/"))
    said = pod.start(http_proxy="http://127.0.0.1:9", https_proxy="http://127.0.0.1:9")  # it must not go out
    assert "it is taken out" in said
    assert pod.git("remote", "get-url", "origin") == "https://github.com/me/nanochat.git"
    assert pod.git("remote", "get-url", "--push", "origin") == "https://github.com/me/nanochat.git"
    holds_no_secret(said, pod)
    assert "it is taken out" not in pod.start(http_proxy="http://127.0.0.1:9", https_proxy="http://127.0.0.1:9")


class Private(SimpleHTTPRequestHandler):
    """A server of files for whoever has the token."""

    asked: list[str]

    def do_GET(self) -> None:
        given = self.headers.get("Authorization", "")
        self.asked.append(given)
        wanted = base64.b64encode(f"x-access-token:{SECRETS['GITHUB_PAT']}".encode()).decode()
        if given == f"Basic {wanted}":
            super().do_GET()
            return
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="x"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def private(pod: Pod) -> Iterator[str]:
    """Address of a server that has me's private fork."""
    place = pod.publish("me", "private")
    pod.git("update-server-info", at=place)
    bare = pod.github / "served" / "me" / "nanochat.git"
    bare.parent.mkdir(parents=True)
    (place / ".git").rename(bare)
    Private.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Private, directory=str(pod.github / "served")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_private_fork_comes_through_the_token(pod: Pod, private: str) -> None:
    wish = {**SECRETS, "GIT_USERNAME": "me", "NANOCHAT_POD_GITHUB": private}
    traced = {"GIT_TRACE": "1", "GIT_TRACE_CURL": "1", "GIT_TRACE_REDACT": "0", "GIT_CURL_VERBOSE": "1"}
    said = pod.start(**wish, **traced) + pod.start(bash=("-x",), **wish)
    assert (pod.folder / "file").read_text() == "private"
    assert pod.git("remote", "get-url", "origin") == f"{private}/me/nanochat.git"
    assert any(Private.asked)
    holds_no_secret(said, pod)
    # Later, in a shell of the pod: git finds the token by itself.
    subprocess.run(["git", "-C", str(pod.folder), "fetch"], check=True, env={**pod.env, **SECRETS}, capture_output=True)


def test_a_private_fork_without_its_token(pod: Pod, private: str) -> None:
    for token in ({}, {"GITHUB_PAT": "ghp_wrong0123456789"}):
        said = pod.start(GIT_USERNAME="me", NANOCHAT_POD_GITHUB=private, **token)
        assert "could not be cloned" in said and "ghp_wrong" not in said
        assert ("a private fork needs GITHUB_PAT" in said) == (not token)


def test_a_token_is_not_shown_to_who_does_not_ask(pod: Pod, private: str) -> None:
    """A public fork needs none, and another server must not see it."""
    pod.start(**{**SECRETS, "NANOCHAT_POD_GITHUB": str(pod.github)})
    pod.git("remote", "set-url", "origin", f"{private}/me/nanochat.git")
    pod.start(**SECRETS)
    assert Private.asked and not any(Private.asked)


@pytest.mark.parametrize("name", ["me/../you", "-oX=y", "a b", "ghp_token@github.com/x", "x\ny", "ünï"])
def test_odd_accounts_are_not_asked_for(pod: Pod, name: str) -> None:
    said = pod.start(GIT_USERNAME=name)
    assert "not the name of a GitHub account" in said and name not in said
    assert not (pod.log / "argv").exists() or " clone " not in (pod.log / "argv").read_text()


def test_terminal_codes_in_names_do_nothing(pod: Pod) -> None:
    said = pod.start(GIT_USER_NAME="a\x1b]0;x\x07b", WANDB_RUN="r\x1b[2J", RUNPOD_POD_ID="p\x1b[2J")
    assert "\x1b" not in said and "\x07" not in said


def test_shells_of_ssh_get_the_tokens_from_the_first_process(pod: Pod) -> None:
    pod.start(**SECRETS)
    environ = pod.root / "environ"
    environ.write_bytes(b"\0".join(f"{k}={v}".encode() for k, v in {**SECRETS, "OTHER": "x"}.items()) + b"\0")
    profile = pod.root / "etc/profile.d/nanochat.sh"
    for shell in ("bash", "sh"):
        for own in ({}, {"HF_TOKEN": "mine"}):
            done = subprocess.run(
                [shell, "-euc", f". {profile}; env"],
                env={"PATH": os.environ["PATH"], "NANOCHAT_POD_ENVIRON": str(environ), **own},
                capture_output=True,
                text=True,
            )
            assert (done.returncode, done.stderr) == (0, "")
            found = dict(re.findall(r"^(\w+)=(.*)$", done.stdout, re.M))
            if shell == "bash":
                token = own.get("HF_TOKEN", SECRETS["HF_TOKEN"])
                assert (found["HF_TOKEN"], found["HUGGING_FACE_HUB_TOKEN"]) == (token, token)
                assert found["GITHUB_PAT"] == SECRETS["GITHUB_PAT"] and "OTHER" not in found
    done = subprocess.run(["bash", "-c", f". {profile}"], env={"NANOCHAT_POD_ENVIRON": "/absent"}, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_half_a_script_does_nothing(pod: Pod) -> None:
    text = SCRIPT.read_text()
    for share in (0.3, 0.9, 0.99):
        half = text[: int(share * len(text))]
        subprocess.run(["bash"], input=half, env=pod.env, capture_output=True, text=True, timeout=20)
        assert not (pod.log / "apt-get").exists() and not (pod.log / "started").exists()


def test_the_example_can_be_read_by_a_shell_and_has_the_seeds_variables() -> None:
    names = "HF_TOKEN WANDB_API_KEY GITHUB_PAT GIT_USERNAME WANDB_RUN GIT_USER_NAME GIT_USER_EMAIL"
    done = subprocess.run(
        ["bash", "-euc", f"set -a; . {ROOT}/env.example; printenv {names}"],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 7, done.stderr
    text = (ROOT / "env.example").read_text()
    assert "# NANOCHAT_BASE_DIR=" in text and "# NPROC_PER_NODE=" in text
    assert "/.env" in (ROOT / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize(
    ("pod_id", "shown"), [("abc123xyz", True), ("", False), ("a/../b", False), ("a.b\x1b[2J", False), ("é", False)]
)
def test_on_a_pod_the_farewell_names_the_proxy(
    pod_id: str, shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nanochat.pipeline.farewell import go_on

    monkeypatch.setenv("RUNPOD_POD_ID", pod_id)
    go_on(" -g d4")
    said = capsys.readouterr().out
    assert (f"https://{pod_id}-8000.proxy.runpod.net" in said) == shown
    assert "chat_web -g d4\n" in said and "--host" not in said
