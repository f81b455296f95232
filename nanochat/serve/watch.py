"""/train: a page on which a training can be watched, and what it asks for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.responses import RedirectResponse, Response

from nanochat.paths import runs_dir
from nanochat.report.values import number
from nanochat.serve.access import Access, Guard
from nanochat.serve.files import Files
from nanochat.serve.watch_answers import answers_over_time
from nanochat.serve.watch_course import Course
from nanochat.serve.watch_points import points
from nanochat.serve.watch_runs import metrics_file, run_names
from nanochat.serve.watch_status import status

KEPT = 4  # runs whose rows stay in memory
LISTED = 500  # runs that the page offers


class Courses:
    """The runs that are being looked at, each read once."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Course] = OrderedDict()
        self.lock = threading.Lock()  # held while a course is used: requests come from several threads

    def get(self, name: str) -> Course:
        """HTTPException when there is no such run."""
        if name not in run_names():  # which also keeps the path inside the runs' folder
            raise HTTPException(404, "there is no such run")
        course = self._kept.pop(name, None) or Course(metrics_file(name))
        self._kept[name] = course
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        course.refresh()
        return course


def routes(price: float = 0.0, every: float = 2.0) -> APIRouter:
    """The page and its data. price: dollars per hour of the machine; 0: see `status`. every: seconds between looks.

    Whoever may ask sees the runs' settings: it is for those who are let in (see access.py).
    """
    router = APIRouter(prefix="/train", include_in_schema=False)
    courses, files = Courses(), Files()

    @router.get("")
    async def page(request: Request) -> Response:
        return files.page("watch.html", request)

    @router.get("/runs")
    def listed() -> dict[str, Any]:
        return {"every": every, "runs": run_names()[:LISTED]}

    @router.get("/runs/{name}")
    def one(name: str, generation: int = -1, stride: int = 0, have: int = 0) -> dict[str, Any]:
        with courses.lock:
            course = courses.get(name)
            evals = [{k: n for k, v in row.items() if (n := number(v)) is not None} for row in course.evals]
            return {
                "status": status(name, course, price).to_dict(),
                "points": points(course, generation, stride, have),
                "evals": evals,
                "problem": course.problem,
            }

    @router.get("/runs/{name}/answers")
    def answers(name: str) -> dict[str, Any]:
        with courses.lock:
            courses.get(name)
        return answers_over_time(runs_dir(name))

    return router


class Nothing:
    """No answers are being made, so that the server may end at once (see http.py)."""

    idle = True

    def drain(self) -> None:
        pass


def create_app(price: float = 0.0, every: float = 2.0) -> FastAPI:
    """The page alone, for this machine."""
    app = FastAPI(title="nanochat watch", openapi_url=None, docs_url=None, redoc_url=None)
    app.state.answers = Nothing()
    app.add_middleware(Guard, access=Access(loopback=True))
    app.mount("/static", Files(), name="static")

    @app.get("/", include_in_schema=False)
    async def start() -> Response:
        return RedirectResponse("/train", 307)

    app.include_router(routes(price, every))
    return app
