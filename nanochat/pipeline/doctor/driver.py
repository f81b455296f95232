"""NVIDIA's driver and cards, as nvidia-smi and the system tell: no CUDA is started."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from nanochat.pipeline.doctor.finding import Finding, ok, stop, together, warning
from nanochat.pipeline.doctor.situation import Situation

DEVICES, PCI = Path("/dev"), Path("/sys/bus/pci/devices")
NVIDIA, DISPLAYS = "0x10de", ("0x0300", "0x0302")  # a vendor's id; the classes of graphics cards
PATIENCE = 10.0  # seconds for one call of nvidia-smi
FIELDS = "index,name,driver_version,memory.used,memory.total"
BUSY = 0.05  # share of a card's memory that others may hold; a driver itself holds about 1%
SLOWED = 0x08 | 0x20 | 0x40 | 0x80  # reasons to run slower: hardware, heat (twice), power supply
CUDA_INDEX = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/"


@dataclass(frozen=True)
class Card:
    """used, total: MiB of memory."""

    index: str
    name: str
    driver: str
    used: float
    total: float


def driver(now: Situation) -> Finding:
    """Driver, cards, and who else uses them."""
    there = has_nvidia()
    program = shutil.which("nvidia-smi")
    if not program:
        if not there:
            return ok("no NVIDIA card here")
        return warning("there is an NVIDIA card, but no nvidia-smi", _no_driver())
    said, failure = call(program, f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits")
    cards = [card for line in said.splitlines() if (card := _card(line))]
    if not cards:
        why = f": {failure}" if failure else ""
        return stop(f"nvidia-smi finds no card{why}", _no_driver()) if there else ok(f"no NVIDIA card here{why}")
    mine = [card for card in cards if _visible(card, os.environ.get("CUDA_VISIBLE_DEVICES"))]
    found = [_versions(program, cards)]
    if mine:
        found += [_kinds(mine), _others(program, mine), _errors(program, mine), _slowed(program, mine)]
    return together(found)


def has_nvidia() -> bool:
    """Whether the machine has an NVIDIA card, driver or not."""
    if device_count():
        return True
    for device in PCI.glob("*"):
        with suppress(OSError):
            kind = (device / "class").read_text()[:6]
            if (device / "vendor").read_text().strip() == NVIDIA and kind in DISPLAYS:
                return True
    return False


def device_count() -> int:
    """NVIDIA's cards that the driver has made devices for."""
    return len(list(DEVICES.glob("nvidia[0-9]*")))


def _no_driver() -> str:
    return "Install NVIDIA's driver; in Docker, start the container with --gpus all"


def call(program: str, *args: str) -> tuple[str, str]:
    """What nvidia-smi prints, and why it failed ("": it did not)."""
    try:
        done = subprocess.run([program, *args], capture_output=True, text=True, errors="replace", timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return "", f"it did not answer within {PATIENCE:.0f} s"
    except OSError as error:
        return "", error.strerror or str(error)
    if done.returncode:
        return "", (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[0]
    return done.stdout, ""


def _card(line: str) -> Card | None:
    parts = [part.strip() for part in line.split(",")]
    if len(parts) < 5 or not parts[0].isdecimal():
        return None
    used, total = (float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else 0.0 for text in parts[-2:])
    return Card(parts[0], ", ".join(parts[1:-3]), parts[-3], used, total)


def _versions(program: str, cards: list[Card]) -> Finding:
    said = ", ".join(f"{n} x {name}" for name, n in _counts(cards).items()) + f", driver {cards[0].driver}"
    has = driver_cuda(call(program)[0])
    needs = torch_cuda()
    if has:
        said += f" for CUDA {has[0]}.{has[1]}"
    if has and needs and has[0] < needs[0]:
        remedy = f"Update the driver, or install a torch for this one: {CUDA_INDEX}cu{has[0]}{has[1]}"
        return stop(f"{said}, which is too old for torch's CUDA {needs[0]}.{needs[1]}", remedy)
    return ok(said)


def driver_cuda(said: str) -> tuple[int, int] | None:
    """The newest CUDA that the driver can run, from the head of nvidia-smi's table."""
    found = re.search(r"CUDA[\w ]* Version\s*:\s*(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else None


def torch_cuda() -> tuple[int, int] | None:
    """The CUDA that torch was built for; None without. torch is not imported."""
    spec = find_spec("torch")
    with suppress(OSError, TypeError):
        text = Path(str(spec and spec.origin)).with_name("version.py").read_text()
        found = re.search(r"^cuda\b[^=\n]*=\s*['\"](\d+)\.(\d+)", text, re.MULTILINE)
        return (int(found[1]), int(found[2])) if found else None
    return None


def _counts(cards: list[Card]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for card in cards:
        counts[card.name] = counts.get(card.name, 0) + 1
    return counts


def _kinds(cards: list[Card]) -> Finding:
    if len(_counts(cards)) == 1:
        return ok("")
    best = max(_counts(cards).items(), key=lambda one: one[1])[0]
    which = ",".join(card.index for card in cards if card.name == best)
    remedy = f"Set CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES={which}"
    return warning("the cards differ, and the slowest sets the pace", remedy)


def _others(program: str, cards: list[Card]) -> Finding:
    busy = [card for card in cards if card.total and card.used > BUSY * card.total]
    if not busy:
        return ok("")
    told = ", ".join(f"{card.used / 1024:.1f} GB on card {card.index}" for card in busy)
    said, _ = call(program, "--query-compute-apps=pid,process_name", "--format=csv,noheader")
    pids = [line.split(",")[0].strip() for line in said.splitlines() if line.split(",")[0].strip().isdecimal()]
    who = f" (processes {', '.join(pids[:8])})" if pids else ""
    return warning(f"other programs hold {told}{who}", "End them, or set CUDA_VISIBLE_DEVICES to free cards")


def _visible(card: Card, mine: str | None) -> bool:
    """Whether this process would use the card. Names of other kinds than numbers are taken for yes."""
    if mine is None:
        return True
    names = [part.strip() for part in mine.split(",")]
    return not hides_all(mine) and (not all(name.isdecimal() for name in names) or card.index in names)


def hides_all(mine: str | None) -> bool:
    """Whether CUDA_VISIBLE_DEVICES keeps all cards from this process."""
    return mine is not None and mine.split(",")[0].strip() in ("", "-1", "NoDevFiles")


def _each(program: str, field: str, cards: list[Card]) -> list[tuple[str, str]]:
    """(card, value) of a field that older drivers may not know."""
    said, _ = call(program, f"--query-gpu=index,{field}", "--format=csv,noheader,nounits")
    pairs = (line.split(",", 1) for line in said.splitlines() if "," in line)
    mine = {card.index for card in cards}
    return [(index.strip(), value.strip()) for index, value in pairs if index.strip() in mine]


def _errors(program: str, cards: list[Card]) -> Finding:
    counted = _each(program, "ecc.errors.uncorrected.volatile.total", cards)
    bad = [index for index, value in counted if value.isdecimal() and int(value) > 0]
    if not bad:
        return ok("")
    problem = f"card {', '.join(bad)} has had uncorrected memory errors since it started"
    return warning(problem, "Restart the machine, or take another one: such a card can spoil a training")


def _slowed(program: str, cards: list[Card]) -> Finding:
    reasons = _each(program, "clocks_throttle_reasons.active", cards)
    slow = [index for index, value in reasons if re.fullmatch(r"0x[0-9A-Fa-f]+", value) and int(value, 16) & SLOWED]
    if not slow:
        return ok("")
    return warning(
        f"card {', '.join(slow)} runs slower because of heat or power", "Look at nvidia-smi -q -d PERFORMANCE"
    )
