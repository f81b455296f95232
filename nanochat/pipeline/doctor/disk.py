"""The disk of the base dir: room, kind, speed, and whether files can be kept safe there."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from nanochat import lock
from nanochat.console import UserError, file_size
from nanochat.corpus.names import HUB_CORPORA, TINYWORLD, corpus_name
from nanochat.paths import STAGES, base_dir, sync_folder
from nanochat.pipeline.doctor.finding import Finding, ok, stop, together, warning
from nanochat.pipeline.doctor.situation import Situation
from nanochat.pipeline.layout import disk_of

MOUNTS = Path("/proc/self/mountinfo")
OCTAL = re.compile(r"\\([0-7]{3})")  # how a mount's path has its spaces
IN_MEMORY = {"tmpfs", "ramfs"}
OVER_THE_NETWORK = {
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse", "gfs2", "glusterfs", "gpfs", "lustre", "mfs", "nfs", "nfs4",
    "ocfs2", "orangefs", "smb3", "smbfs", "virtiofs", "wekafs",
}  # fmt: skip
BLOCK, MOST, PATIENCE = 4 << 20, 256 << 20, 2.0  # bytes written at once and in all, and seconds that this may take
SLOW, LONG = 50e6, 10.0  # bytes a second; seconds for a checkpoint that nobody minds
PROBE, LEFT = ".doctor-", 3600.0  # begins the name of what is tried out; seconds after which it is nobody's
TINY_BYTES = 30e6  # of the tiny world's text
ELSEWHERE = "Set NANOCHAT_BASE_DIR to a folder of a larger disk"


def disk(now: Situation) -> Finding:
    """Everything about the folder that artifacts are kept in."""
    base = base_dir()
    found = [_room(base, now), _kind(base, now)]
    try:
        _keeps(base)
        found.append(_speed(base, now))
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            found.append(stop(f"nothing can be written to {base}: {why}", ELSEWHERE))
        else:
            found.append(
                stop(f"cannot write to {base}: {why}", "Set NANOCHAT_BASE_DIR to a folder that you may write to")
            )
    except UserError as error:
        found.append(stop(error.problem, error.remedy))
    return together(found)


def _room(base: Path, now: Situation) -> Finding:
    free = shutil.disk_usage(base).free
    need = needed(now, base)
    text = f"{file_size(free)} free in {base}"
    said = f"{now.what} needs {file_size(int(need))}"
    if free < need:
        return stop(f"{text}, and {said}", f"Free some space, or {ELSEWHERE[:1].lower()}{ELSEWHERE[1:]}")
    if hasattr(os, "statvfs") and (facts := os.statvfs(base)).f_files and not facts.f_favail:
        return stop(f"{base} can take no more files (its inodes are used up)", ELSEWHERE)
    return ok(f"{text}; {said}")


def needed(now: Situation, base: Path) -> float:
    """Bytes that must be free for the whole run, as a plan counts them, without what is there already."""
    on_hub, source, whole = now.dataset in HUB_CORPORA, Path(now.dataset), disk_of(now.model, now.shards)
    text = TINY_BYTES if now.dataset == TINYWORLD else whole["shards"] if on_hub else size_of(source)
    there = size_of(base / "data" / (now.dataset if now.dataset == TINYWORLD or on_hub else corpus_name(now.dataset)))
    kept = sum(size_of(base / place / f"d{now.depth}") for place in STAGES.values())
    checkpoints = max(now.checkpoint_bytes, whole["checkpoints"] - kept)
    return max(0.0, text - there) + checkpoints + (whole["rest"] if on_hub else 0.0)


def size_of(folder: Path) -> int:
    """Bytes of a file, or of all files below a folder, that are there."""
    total = folder.stat().st_size if folder.is_file() else 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def _kind(base: Path, now: Situation) -> Finding:
    kind = file_system(base)
    if kind in IN_MEMORY:
        lost = "it lives in main memory, and is gone after a restart"
    elif kind == "overlay":
        lost = "it belongs to this container, and is gone with it"
    elif kind.partition(".")[0] in OVER_THE_NETWORK:
        return ok(f"on the network ({kind})")
    else:
        return ok(kind or "unknown file system")
    if now.backup:
        return ok(f"{kind}: {lost}, but for the backup")
    volume = "Set NANOCHAT_BASE_DIR to a volume that stays (on RunPod: in /workspace), or add --backup"
    return warning(f"{kind}: {lost}", volume)


def file_system(path: Path) -> str:
    """The kind of file system that a folder is on, such as ext4 or nfs4; "" when the system does not tell."""
    path, best, kind = path.resolve(), -1, ""
    with suppress(OSError, IndexError):
        for line in os.fsdecode(MOUNTS.read_bytes()).split("\n"):
            own, _, more = line.partition(" - ")
            place = Path(OCTAL.sub(lambda found: chr(int(found[1], 8)), own.split()[4]))
            if (place == path or place in path.parents) and len(place.parts) >= best:  # a later mount hides an earlier
                best, kind = len(place.parts), more.split()[0]
    return kind


def _keeps(base: Path) -> None:
    """OSError or UserError unless a file can be written, synced, locked, and replaced in one go."""
    for left in base.glob(f"{PROBE}*"):  # by a doctor that was killed
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > LEFT:
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=PROBE, dir=base) as name:
        folder = Path(name)
        new, old = folder / "new", folder / "old"
        for path, data in ((old, b"old"), (new, b"new")):
            with open(path, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        os.replace(new, old)
        sync_folder(folder)
        if old.read_bytes() != b"new" or new.exists():
            raise UserError(f"{base} does not replace a file by another", "Set NANOCHAT_BASE_DIR to a local disk")
        with lock.hold(folder / "lock", "nobody else knows this file", 1.0):
            if not _held_for_others(folder / "lock"):
                raise UserError(f"{base} does not keep locks", "Set NANOCHAT_BASE_DIR to a local disk")


def _held_for_others(path: Path) -> bool:
    """Whether another process finds a lock held: on NFS, the one that holds it could take it again."""
    if not hasattr(os, "fork"):
        return True
    child = os.fork()
    if not child:
        try:
            os._exit(int(lock.is_held(path)))
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def _speed(base: Path, now: Situation) -> Finding:
    """Bytes a second that reach the disk, from a file without a name, which no kill can leave behind."""
    block, written = os.urandom(BLOCK), 0  # some disks pack zeros
    most = min(MOST, shutil.disk_usage(base).free // 4)
    with tempfile.TemporaryFile(dir=base) as file:
        began = time.monotonic()
        while written < most and time.monotonic() - began < PATIENCE:
            file.write(block)
            written += BLOCK
        file.flush()
        os.fsync(file.fileno())
        speed = written / max(1e-6, time.monotonic() - began)
    if not written:
        return ok("too full to measure its speed")
    said = f"writes {speed / 1e6:,.0f} MB/s"
    takes = now.checkpoint_bytes / speed
    if speed < SLOW and takes > LONG:
        return warning(f"{said}: a checkpoint takes {takes:,.0f} s", "Set NANOCHAT_BASE_DIR to a faster disk")
    return ok(said)
