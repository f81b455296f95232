"""Pictures of the pages for the docs, of a server that runs, or of an exported file: what the model says there is what
stands on them.

nanochat serve                                             # in another terminal
python dev/pictures.py http://127.0.0.1:8000 --second base # docs/chat.png, look.png, compare.png, watch.png,
                                                           # answers.png; first.png: two of them in one
nanochat export_html -i sft --output my_bot.html
python dev/pictures.py my_bot.html                         # docs/html.png

Needs Playwright, Chromium and Pillow (`bash test.sh` installs the first two, matplotlib the last).
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

LARGEST = 150_000  # bytes of a picture
SIZE = {"width": 1100, "height": 720}
GAP = 24  # pixels between two pictures in one


def states(page: Any, address: str, questions: list[str], second: str) -> Iterator[str]:
    """Brings the page into one state after another, each with the name of its picture."""
    page.goto(address)
    page.get_by_role("heading", name="What would you like to know?").wait_for()
    for question in questions:
        ask(page, question)
    page.evaluate("document.activeElement.blur()")
    yield "chat"

    page.get_by_role("button", name="Look inside").last.click()
    dialog = page.get_by_role("dialog", name="Look inside")
    dialog.locator(".token").first.wait_for()
    dialog.locator(".token").nth(min(3, dialog.locator(".token").count() - 1)).click()
    dialog.get_by_role("button", name="Why?").click()
    dialog.get_by_role("heading", name="looked").first.wait_for()
    yield "look"

    page.reload()
    page.get_by_role("button", name="New chat", exact=True).first.click()
    page.get_by_label("Which model answers:").click()
    page.get_by_role("button", name="Side by side").click()
    page.get_by_role("option").filter(has_text=second).first.click()
    ask(page, questions[-1])
    yield "compare"

    page.goto(f"{address}/train")
    page.locator("#charts path").first.wait_for(state="attached")
    yield "watch"

    run = page.get_by_label("Run", exact=True)
    run.select_option(next(name for name in run.locator("option").all_text_contents() if name.startswith("mid")))
    moment = page.get_by_label("Step", exact=True)
    moment.wait_for()
    moment.focus()
    page.keyboard.press("Home")  # where some are right, and others not yet
    page.locator("#answers").evaluate("section => section.scrollIntoView({ block: 'start' })")
    page.evaluate("document.activeElement.blur()")
    yield "answers"


def states_of_file(page: Any, file: Path, questions: list[str]) -> Iterator[str]:
    page.goto(file.absolute().as_uri())
    for question in questions:
        ask(page, question)
    page.get_by_role("button", name="Figures").click()
    page.evaluate("document.activeElement.blur()")
    yield "html"


def ask(page: Any, question: str) -> None:
    answers = page.locator(".message.assistant")
    before = answers.count()
    page.get_by_label("Message", exact=True).fill(question)
    page.keyboard.press("Enter")
    answers.nth(before).wait_for()
    page.get_by_role("button", name="Send").wait_for(timeout=300_000)


def smaller(png: bytes) -> bytes:
    """The same picture in the fewest colours that it needs."""
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGB")
    for colours in (256, 128, 64, 32):
        out = io.BytesIO()
        picture.quantize(colours, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
        if out.tell() < LARGEST:
            return out.getvalue()
    raise SystemExit(f"error: a picture has more than {LARGEST:,} bytes in 32 colours. Ask for something shorter.")


def beside(left: Path, right: Path, to: Path) -> None:
    from PIL import Image

    pictures = [Image.open(path).convert("RGB") for path in (left, right)]
    width, height = SIZE["width"], SIZE["height"]
    whole = Image.new("RGB", (2 * width + GAP, height), "white")
    for at, picture in enumerate(pictures):
        whole.paste(picture, (at * (width + GAP), 0))
    out = io.BytesIO()
    whole.save(out, "PNG")
    to.write_bytes(smaller(out.getvalue()))


def take(states: Callable[[Any], Iterator[str]], folder: Path, say: Callable[[str], object] = print) -> None:
    from playwright.sync_api import sync_playwright

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from benchmarks.browser import found

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found(), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, color_scheme="light", reduced_motion="reduce")
        for name in states(page):
            path = folder / f"{name}.png"
            path.write_bytes(smaller(page.screenshot()))
            say(f"{path}: {path.stat().st_size:,} bytes")
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", help="of the server, with no key: http://127.0.0.1:8000; or an exported file")
    parser.add_argument(
        "--questions", nargs="+", default=["Who are you?", "What is 34 * 12?"], help="one after another"
    )
    parser.add_argument("--second", default="base", help="part of the name of the model beside the server's own")
    parser.add_argument("--folder", type=Path, default=Path("docs"), help="for the pictures")
    given = parser.parse_args()
    file = Path(given.address)
    if file.is_file():
        take(lambda page: states_of_file(page, file, given.questions), given.folder)
    else:
        take(lambda page: states(page, given.address.rstrip("/"), given.questions, given.second), given.folder)
        beside(given.folder / "chat.png", given.folder / "answers.png", given.folder / "first.png")


if __name__ == "__main__":
    main()
