"""A checkpoint becomes one HTML file, in which it answers: offline, in any current browser, without anything installed.

The file holds the weights in eight bits, the tokenizer, and the programs in hub/html: plain JavaScript that computes
what our engine computes with `--quantize int8`.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import nanochat
from nanochat import checkpoint, model
from nanochat.checkpoint import Manifest
from nanochat.console import UserError, say
from nanochat.hub import card_rows
from nanochat.hub.ancestry import ancestry
from nanochat.hub.html_script import bundle
from nanochat.hub.html_weights import Payload, TableBits, make_payload
from nanochat.model import GPT, ModelConfig
from nanochat.paths import require_disk, write_atomic
from nanochat.reading import open_regular
from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer
from nanochat.tokenizer.native import native_digits

VERSION = 1  # of the header, as in hub/html/protocol.js
MODULES = Path(__file__).with_name("html")
STATIC = Path(nanochat.__file__).parent / "serve" / "static"
SHEETS = ("markdown", "scrolling", "messages", "chat", "settings", "panel", "look/look")  # of the chat page's
MADE = """  <p id="made" class="hint">A small language model, made with nanochat: <code>bash speedrun.sh</code> makes
    your own. Conversations last until this page is closed.</p>
"""
GENERATOR = b'<meta name="generator" content="nanochat export_html">'
LARGEST_MB = 1900  # browsers hold no more bytes in one piece
BYTES_A_NUMBER = 1.1  # of a file, for each parameter in eight bits: 7.4 bits after compression, as text
# As chat_web samples.
DEFAULTS: dict[str, float | None] = {"temperature": 0.6, "top_k": 50, "top_p": 1.0, "max_tokens": 512, "seed": None}


def export_html(
    stage: str, output: str | Path, tag: str | None = None, step: int | None = None, max_mb: int = 160
) -> Path:
    """Write the checkpoint of a stage (the newest, or the one named) as the file `output`, and return that.

    UserError for a file that would have more than `max_mb` million bytes, for another file in its place that no export
    wrote, and for a model that cannot be exported; then nothing is written.
    """
    if not 1 <= max_mb <= LARGEST_MB:
        raise UserError(f"--max-mb is {max_mb}", f"Give a number from 1 to {LARGEST_MB:,}")
    path = _place(output)
    folder = checkpoint.find(stage, tag, step)
    manifest = checkpoint.read_manifest(folder)
    config = model.read_config(folder)
    least = _parameters(config) * BYTES_A_NUMBER
    if least > max_mb * 1e6 * 1.25:  # so that it need not be read
        raise _too_large(config, least, max_mb)
    tokenizer = Tokenizer.load(folder / "tokenizer")
    if native_digits(tokenizer.pattern) is None:
        raise UserError("this tokenizer cuts text by a pattern of its own", "Export a model with nanochat's tokenizer")
    gpt = model.load(folder, "cpu", torch.float32)
    made = ancestry(manifest.stage, manifest.tag, folder)
    card = card_rows.sizes(made[-1]) | {
        "trained": list(card_rows.trained(made)),
        "scores": card_rows.scores(made[-1]),
    }
    bits: TableBits
    for bits in (12, 8):
        payload = make_payload(gpt, tokenizer, bits)
        header = header_of(gpt, tokenizer, manifest, payload) | {"card": card}
        data = make_page(header, payload).encode()
        if len(data) <= max_mb * 1e6:
            break
    else:
        raise _too_large(config, len(data), max_mb)
    require_disk(path.parent, len(data), "the export", "give --output a place on another disk")
    write_atomic(path, data)
    say(f"{manifest.stage} {manifest.tag}, step {manifest.step}: {len(data) / 1e6:.1f} MB in {path}")
    if bits == 8:
        say("Its token tables are in eight bits, too, to be small enough: now and then it may say another word")
    say("Open it in a browser: it needs no network, and sends nothing anywhere")
    return path


def _place(given: str | Path) -> Path:
    """The file to write, which must be absent or an earlier export."""
    remedy = "Give --output a new file, such as my_bot.html"
    try:
        path = Path(given).expanduser().resolve()  # a link stays, and leads to the file
        if not str(given) or path.is_dir():
            raise UserError(f"{str(given)!r} is a folder", remedy)
        if Path(given).suffix.lower() not in (".html", ".htm"):
            raise UserError(f"{Path(given).name} does not end with .html, so that browsers would not open it", remedy)
        if os.path.lexists(path):
            with open_regular(path) as file:
                ours = GENERATOR in file.read(2000)
            if not ours:
                raise UserError(f"{path} is a file that no export wrote", remedy)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"cannot use {str(given)!r}: {error}", remedy) from None
    return path


def _parameters(config: ModelConfig) -> int:
    with torch.device("meta"):  # takes no memory
        return GPT(config).num_params()


def _too_large(config: ModelConfig, size: float, max_mb: int) -> UserError:
    """What is wrong, and what would fit."""
    what = (
        f"a model of depth {config.depth} with {config.vocab_size:,} tokens makes a file of about {size / 1e6:,.0f} MB"
    )
    fitting = 0
    for depth in range(1, config.depth):
        smaller = ModelConfig.from_depth(depth, config.vocab_size, config.seq_len, config.arch)
        if _parameters(smaller) * BYTES_A_NUMBER > max_mb * 1e6:
            continue  # a deeper one may be smaller: from depth 10 on there is no table of token pairs
        fitting = depth
    fits = f"Export one of depth {fitting}" if fitting else "Export one with fewer tokens"
    allow = f"Allow --max-mb={round(size / 1e6 * 1.1) + 1}" if size / 1e6 * 1.1 + 1 <= LARGEST_MB else ""
    return UserError(f"{what}, more than the {max_mb} that --max-mb allows", *filter(None, (fits, allow)))


def header_of(gpt: GPT, tokenizer: Tokenizer, manifest: Manifest, payload: Payload) -> dict[str, Any]:
    """What the file's script is told (hub/html/protocol.js)."""
    return {
        "version": VERSION,
        "name": f"{manifest.stage}/{manifest.tag}/{manifest.step}",
        "chat": manifest.stage != "base",
        "sizes": _sizes(gpt),
        "tokenizer": {"digits": native_digits(tokenizer.pattern), "special": list(SPECIAL_TOKENS)},
        "bytes": payload.size,
        "blocks": len(payload.blocks),
        "places": payload.places,
        "defaults": DEFAULTS,
        "card": {},
    }


def make_page(header: Mapping[str, Any], payload: Payload) -> str:
    """The text of the file."""
    page = bundle(MODULES / "page.js")
    sheets = [STATIC / "style.css", *(STATIC / "chat" / f"{name}.css" for name in SHEETS), MODULES / "page.css"]
    style = "\n".join(sheet.read_text(encoding="utf-8") for sheet in sheets)
    guard = (MODULES / "guard.js").read_text(encoding="utf-8")
    weights = "\n".join(
        f'<script type="application/octet-stream" id="weights-{number}">{block}</script>'
        for number, block in enumerate(payload.blocks)
    )
    policy = (
        f"default-src 'none'; script-src {_hash(guard)} {_hash(page)} 'wasm-unsafe-eval'; style-src {_hash(style)}; "
        "worker-src blob:; img-src data:; base-uri 'none'; form-action 'none'"
    )
    return _filled(
        (MODULES / "page.html").read_text(encoding="utf-8"),
        {
            "policy": policy,
            "title": html.escape(f"{header['name']} - nanochat"),
            "logo": _logo(),
            "style": style,
            "guard": guard,
            "body": _body(),
            "header": json.dumps(header, separators=(",", ":")).replace("<", "\\u003c"),
            "worker": bundle(MODULES / "worker.js"),
            "weights": weights,
            "page": page,
        },
    )


def _body() -> str:
    """The chat page's own, which is hidden until the script begins, and says what it is."""
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    body = page[page.index('<a class="skip"') : page.index("</body>")]
    changes = {
        '<div id="page">': '<div id="page" hidden>',
        '"/static/logo.svg"': f'"{_logo()}"',
        "  </footer>": f"{MADE}  </footer>",
        " autofocus>": ">",  # nothing can be written before that
    }
    for before, after in changes.items():
        body = body.replace(before, after)
    return body


def _logo() -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode((STATIC / 'logo.svg').read_bytes()).decode()}"


def _sizes(gpt: GPT) -> dict[str, Any]:
    """What hub/html/model.js wants to know."""
    c = gpt.config
    return {
        "depth": c.depth,
        "width": c.width,
        "heads": c.heads,
        "kvHeads": c.kv_heads,
        "headDim": c.head_dim,
        "vocab": c.vocab_size,
        "window": c.seq_len,
        "modern": c.modern,
        "windows": [c.window(layer) for layer in range(c.depth)],
        "values": [c.has_value_embedding(layer) for layer in range(c.depth)],
        "pairs": c.bigram,
        "scale": gpt.layers[0].attn.scale,
        "eps": c.norm_eps or torch.finfo(torch.float32).eps,
        "softcap": c.softcap,
        "ropeBase": c.rope_base,
    }


def _hash(text: str) -> str:
    """Of a script or style, by which a page's policy knows it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _filled(template: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: values[found[1]], template)
