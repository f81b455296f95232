"""Run code that a model wrote, in processes that can do no harm. docs/sandbox.md says what that means.

with Sandbox(Limits(seconds=2)) as box:
    result = box.run("print(6 * 7)")                             # Result(status="ok", stdout="42\\n", ...)
    result = box.check("def f(x): return x + 1", "f", "assert f(1) == 2")
"""

from __future__ import annotations

from nanochat.tools.sandbox.box import Sandbox, SandboxError
from nanochat.tools.sandbox.limits import STRICT, Level, Limits, Result, Status

__all__ = ["STRICT", "Level", "Limits", "Result", "Sandbox", "SandboxError", "Status"]
