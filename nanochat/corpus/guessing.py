"""Guess which pre-Unicode encoding some bytes are in: for advice, never for reading."""

from __future__ import annotations

import re
import unicodedata

# Python's names, and what iconv calls them. Of equally good ones the first is taken.
LATIN = {
    "cp1252": "CP1252", "cp1250": "CP1250", "iso8859_2": "ISO-8859-2", "cp1254": "CP1254", "cp1257": "CP1257",
    "mac_roman": "MACINTOSH", "cp850": "CP850",
}  # fmt: skip
OTHERS = {
    "cp1251": "CP1251", "koi8_u": "KOI8-U", "iso8859_5": "ISO-8859-5", "cp866": "CP866", "cp1253": "CP1253",
    "cp1255": "CP1255", "cp1256": "CP1256", "cp874": "CP874", "gb18030": "GB18030", "big5": "BIG5", "cp932": "CP932",
    "euc_jp": "EUC-JP", "cp949": "CP949",
}  # fmt: skip
# The non-ASCII letters of languages, one word per language: western, central, Turkish and Baltic.
LANGUAGES = (
    "àâæçéèêëîïôœùûüÿ äöüß áéíñóúü áâãàçéêíóôõúü àèéìíîòóùú åäöé æøåéóö ëïéèöüó áéíóúýþæöð "
    "ąćęłńóśźż áčďéěíňóřšťúůýž áäčďéíĺľňóôŕšťúýž áéíóöőúüű ăâîşţșț čćđšž "
    "çğıöşüâîû ąčęėįšųūž āčēģīķļņšūž äöõüšž"
)
ALPHABETS = [set(letters) for letters in LANGUAGES.split()]  # a text uses only one of them
ASIDE = "’‘´·"  # what may stand inside a word without being a letter
ALONE = re.compile(rb"(?<![\x80-\xff])[\x80-\xff](?![\x80-\xff])")
CHAOS = 2  # weight of charset-normalizer's chaos against the share of letters that fit a language


def guess(data: bytes) -> str:
    """The likeliest encoding, by its iconv name, of bytes that are not UTF-8; "" if none fits.

    charset-normalizer tells alphabets apart; among Latin encodings, the one wins whose letters best fit one language.
    """
    from charset_normalizer import from_bytes

    # Non-ASCII letters stand alone in Latin words, and in runs in scripts or encodings without ASCII letters.
    alone = len(ALONE.findall(data)) * 2 > sum(byte >= 0x80 for byte in data)
    found = from_bytes(data, cp_isolation=list(LATIN if alone else LATIN | OTHERS))
    best = found.best()
    if best is not None and best.encoding in OTHERS:
        return OTHERS[best.encoding]
    chaos = {name: match.chaos for match in found for name in (match.encoding, *match.could_be_from_charset)}
    scores = {}
    for name in LATIN:
        try:
            text = data.decode(name)
        except UnicodeDecodeError:
            continue
        if name in chaos or best is None:
            scores[name] = _fit(text) - CHAOS * chaos.get(name, 0.0)
    return LATIN[max(scores, key=scores.__getitem__)] if scores and not data.isascii() else ""


def _fit(text: str) -> float:
    """The share of non-ASCII characters that are letters of the best-fitting language or signs between words, minus
    the share of non-letters inside words."""
    letters, wrong, beyond = [], 0, 0
    for before, char, after in zip(f" {text}", text, f"{text[1:]} ", strict=False):
        if char.isascii():
            continue
        beyond += 1
        kind = unicodedata.category(char)
        if char.isalpha() and kind != "Lo":
            letters.append(char.lower())
        elif kind == "Cc" or (before.isalpha() and after.isalpha() and char not in ASIDE):
            wrong += 1
    fitting = max(sum(letter in alphabet for letter in letters) for alphabet in ALPHABETS)
    return (fitting + beyond - len(letters) - 2 * wrong) / max(1, beyond)
