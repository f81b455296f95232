"""A server whose model says what it is told to, at the pace it is told to, in a process of its own.

python -m benchmarks.page.server BASE: prints its address; NANOCHAT_BASE_DIR is BASE, which gets a run to watch.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from nanochat.inference import Token

PACE = 100  # tokens a second
LETTERS = 4  # in a token
LONG = 50_000  # letters of an answer that are there before the pace begins
STEPS = 5_000  # of the run to watch
SECTION = """## Part {n}

The model says something about **part {n}**, with *words* that lean and `code` in between, so that a [link](https://a.example/{n})
has company. It goes on for a while, as answers do, and ends when everything is said about it.

- first of all, number {n}
- then what follows
  - and what belongs to it
- [x] done

```python
def part(n: int) -> int:
    return n * {n}  # as it is
```

| what | how many |
|---|---:|
| parts | {n} |
| words | 100 |

"""


def text() -> Iterator[str]:
    return (SECTION.format(n=n) for n in itertools.count(1))


def script() -> Iterator[Token]:
    """First a long answer at once, then more of it at the pace."""
    from nanochat.inference import Token

    sections = text()
    written = 0
    while written < LONG:
        section = next(sections)
        written += len(section)
        yield Token(0, section, "text", 0)
    due = time.monotonic()
    for section in sections:
        for at in range(0, len(section), LETTERS):
            due += 1 / PACE
            time.sleep(max(0.0, due - time.monotonic()))
            yield Token(0, section[at : at + LETTERS], "text", 0)


class Said:
    """A stream of an engine that says what the script says."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.tokens = engine, script()
        self.ready: list[Token] = []
        self.done = False
        self.error: Exception | None = None
        self.texts: list[str] = []

    def take(self) -> list[Token]:
        taken, self.ready = self.ready, []
        return taken

    def finished(self) -> list[Any]:
        return []

    def close(self) -> None:
        if not self.done:
            self.done = True
            self.engine.live.remove(self)


def main(base: Path) -> None:
    os.environ["NANOCHAT_BASE_DIR"] = str(base)
    from benchmarks.serve.model import tiny_model
    from nanochat.inference import Engine, Stream
    from nanochat.inference import Request as EngineRequest
    from nanochat.metrics import MetricsWriter, training_file
    from nanochat.serve import Access, ModelInfo, create_app, http, listen, url

    class Scripted(Engine):
        live: list[Said]

        def stream(self, request: EngineRequest) -> Stream:
            self.live.append(Said(self))
            return cast(Stream, self.live[-1])

        def step(self) -> None:
            for said in list(self.live):
                said.ready.append(next(said.tokens))

    writer = MetricsWriter(training_file("base", "d4"))
    writer.write("settings", stage="base", tag="d4", steps=2 * STEPS, machine="cpu", dataset="tinyworld")
    for step in range(1, STEPS + 1):
        values = {"tokens": step * 4096, "seconds": step * 0.5, "tok_per_s": 8000.0, "lr": 1.0, "mfu": 0.5}
        writer.write("step", step=step, loss=2 + 5 / (1 + step / 30), **values)
    model, tokenizer = tiny_model()
    engine = Scripted(model, tokenizer)
    engine.live = []
    app = create_app(engine, ModelInfo("sft", "d2", 7, 1234), access=Access(loopback=True))
    address = listen("127.0.0.1", 0)
    print(url(address), flush=True)
    http.run(app, address, drain_seconds=0)


class Server:
    """Runs from `with` on."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.address = ""

    def __enter__(self) -> Server:
        command = [sys.executable, "-m", "benchmarks.page.server", str(self.base)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        if not self.address:
            raise RuntimeError(f"the server does not start, and ended with {self.process.wait()}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
