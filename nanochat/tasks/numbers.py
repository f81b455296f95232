r"""Numbers as people and models write them: 1,234.50, $18, 2½, \frac{3}{4}, 1.5 × 10³, 2 thousand, １８, twenty-one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from math import prod

LONGEST = 100  # digits; a number that is longer, or has a greater power of ten, gets no value
_PLUS = "\u2064"  # Unicode's invisible plus, between 2 and ½
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_LETTERS = {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "bn": 10**9}
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORDS = {word: n for n, word in enumerate(f"zero one two three four five six seven eight nine {_TEENS}".split())}
_WORDS |= {word: n * 10 for n, word in enumerate(_TENS.split(), 2)}

_SCALE = f"(?:{'|'.join(_SCALES)})"
_NUMBER = r"""
    (?: [1-9]\d{0,2} (?: [._'\xa0]\d{3} )++ ,\d\d? (?![\d,])    # 1.234,50
      | [1-9]\d{0,2} (?: \.\d{3} ){2,}+ (?! \d | [.,]\d )    # 1.234.567
      | (?: [1-9]\d{0,2} (?: [,_'\xa0]\d{3}(?!\d) )++    # 1,234  1_234  1'234, and 1 234 with a thin space
          | [1-9]\d? (?: ,\d\d (?=,) )++ ,\d{3} (?!\d)         # 12,34,567
          | \d++ ) (?: \.\d++ )?+
      | (?<![\w.]) \.\d++ )
"""
_DOTTED = r"[1-9]\d{0,2} (?: \.\d{3} ){2,}+ (?! \d | [.,]\d )"  # 1.234.567
_TOKEN = re.compile(
    rf"""
    (?P<sign> (?<![\w)%}}]) [-+] | (?:negative|(?<!\w\ )minus|(?<=is\ )minus)\  )?
    (?: (?: (?:US)?[$€£¥₹] | USD|EUR|GBP|Rs\.? ) \ ? (?P<inner>[-+])? )?
    (?! 0[xX]\w | \d++ (?: (?:st|nd|rd|th)\b | :\d | (?: [-/]\d++ ){{2}} ) )
    (?: (?= {_DOTTED} ) | (?! \d++ (?: \.\d++ ){{2}} (?!,\d) ) )
    (?: (?P<whole>\d{{1,9}}) (?: [ \xa0]|{_PLUS}|\ and\  ) {_PLUS}? (?= \d{{1,9}}/\d ) )?
    {_PLUS}? (?P<top>{_NUMBER})
    (?: \ ?/\ ? (?P<bottom>\d++ (?: \.\d++ )?+) )?+
    (?: [eE](?P<e>[-+]?\d++)(?!\w) | [ \xa0]? [*×·⋅x] [ \xa0]? 10 \ ?\^\ ? (?P<power>[-+]? (?: \^?\d )++) )?+
    (?: [ \xa0-]? (?P<scale>{_SCALE}(?:[ \xa0]{_SCALE}){{0,2}})\b | (?P<letter>[kKMB]|bn)(?!\w)
      | [ \xa0](?P<dozen>dozen)\b )?+
  | [A-Za-z]\w*+ (?: -\d\w*+ )?+     # words: B12 and COVID-19 hold no number
  | \d++ (?: [-/:.]\d++ )*+ \w*+     # nor do 10:30, 2024-01-31, 1.2.3 and 3rd
  | \^\ ?[-+]?\d++
    """,
    re.VERBOSE,
)
_SPACED = re.compile(r"(?<![\w.,/:^-])[1-9]\d{0,2}(?: \d{3})++(?![\w-]|[:/]\d|[,.]\d(?!\d?(?![\d,])))")  # 2 000
_WORD = rf"(?:{'|'.join((*_WORDS, *_SCALES))}|dozen|an?(?=[ ](?:{'|'.join(_SCALES)}|dozen)\b))\b"
_PARTS = {"hal": 2, "thi": 3, "qua": 4, "fou": 4, "fif": 5, "six": 6, "eig": 8, "ten": 10}  # by first three letters
_PART = "third|quarter|fourth|fifth|sixth|eighth|tenth"
_SHARE = rf"(?:(?:one|an?)[ -](?:half|{_PART})|(?:two|three|four|five|six|seven|eight|nine)[ -](?:{_PART})s)\b"
_SPELLED = re.compile(
    rf"""
    (?P<sign> \b(?:minus|negative)[ ] )? \b
    (?: (?P<share> (?!an?\b) {_SHARE} )
      | (?P<row> {_WORD} (?: (?: [ -] | (?<=[dn]),[ ] | [ ]and[ ](?!{_SHARE}) ) {_WORD} ){{0,20}} )
        (?: [ ]and[ ] (?P<rest>{_SHARE}) | [ ]point (?P<digits> (?: [ ](?:{"|".join([*_WORDS][:10])})\b ){{1,20}} ) )? )
    """,
    re.IGNORECASE | re.VERBOSE,
)
_COMMON = "1/[2-9]|2/[35]|3/[458]|4/5|[57]/8"  # no others: 10-6/2 is not a mixed number, and 3-1/24 may be a date
_NO_NUMBER = re.compile(
    r"\b(?:no|any|each|every|some|the|this|that|which)[ -]$|^[ ](?:of|by|another|who)\b", re.IGNORECASE
)


@cache
def _plain_characters() -> dict[int, str]:
    """Maps non-ASCII digits, spaces, fractions and signs to plain ones."""
    table = {}
    for code in range(128, 0x20000):
        kind, folded = unicodedata.category(chr(code)), unicodedata.normalize("NFKC", chr(code))
        if kind == "Nd":
            table[code] = str(unicodedata.decimal(chr(code)))
        elif kind == "Zs":
            table[code] = "\xa0"
        elif kind == "No" and "⁄" in folded:
            table[code] = _PLUS + folded.replace("⁄", "/")
        elif unicodedata.decomposition(chr(code)).startswith("<super>") and folded in "0123456789+−":
            table[code] = "^" + folded.replace("−", "-")
        elif kind != "No" and len(folded) == 1 and (folded in "£¥" or (folded.isascii() and not folded.isalpha())):
            table[code] = folded
    table |= dict.fromkeys(map(ord, "\u200b\u2060\ufeff"), "")
    table |= dict.fromkeys(map(ord, "−‐\u2011"), "-")
    return table | {ord("’"): "'", ord("٬"): ",", ord("٫"): ".", ord("⁄"): "/", ord("∕"): "/"}


def plain(text: str) -> str:
    """The text with Unicode and LaTeX numbers written in ASCII, and without calculator calls."""
    if not text.isascii():
        text = re.sub(r"(?<![\w)])–(?=[\d.$€£¥])", "-", text)
        text = re.sub(r"(?<![\w)}%—])(?<![\w)}%.,;!?][ \xa0])—(?=[\d.$€£¥])", "-", text).translate(_plain_characters())
    if "\\" in text:
        text = re.sub(r"\\[dt]?frac\s?(\d)(\d)", rf"{_PLUS}\1/\2", text)
        text = re.sub(r"\\[dt]?frac\s?\{(-?)([\d.]++)\}\s?\{([\d.]++)\}", rf"\1{_PLUS}\2/\3", text)
        text = re.sub(r"\\(?:times|cdot)(?![a-z])", "×", text).replace("\\!", "")
        text = re.sub(r"\\[,;: ]", "\xa0", text).replace("\\boxed", "boxed")
        text = re.sub(r"\\[A-Za-z]++", " ", text).replace("\\", "")
    text = re.sub(r"\^\{([-+]?\d++)\}", r"^\1", text.replace("{,}", ","))
    text = re.sub(r"(?<![\w.])(?<!\*\*)10\*\*(?=-?\d)", "10^", text)
    text = re.sub(r"(?<![\w.^*×·⋅])(?<![*×·⋅x][ \xa0])10\^", "1×10^", text)
    text = re.sub(r"~~[^~\n]++~~", "", text)  # struck out
    text = re.sub(r"([=≈:#{][ \xa0$*_]{0,4}-)[ \xa0](?=[$€£¥₹]? ?\.?\d)", r"\1", text)  # x = - 5
    text = re.sub(rf"(?<![\w.,/:^-])(\d{{1,9}})-(?=(?:{_COMMON})(?!\d|[-/.]\d))", r"\1 ", text)  # 3-1/2
    text = re.sub(r"<<[^<>]*+>>(?=[-$\d.])", "", text)
    return _SPACED.sub(lambda found: found[0].replace(" ", "_"), text)


def numbers(text: str) -> Iterator[re.Match[str]]:
    """The matches of numbers in a plain text, for `value`."""
    return (found for found in _TOKEN.finditer(text) if found["top"])


def value(number: re.Match[str]) -> Fraction | None:
    """The exact value of a number; None if it is too long, or divided by 0."""
    top, bottom = number["top"], number["bottom"] or "1"
    if top.count(".") > 1 or re.search(r",\d\d?$", top):
        top = top.replace(".", "").replace(",", ".")
    top = re.sub(r"[,_'\xa0]", "", top)
    power = (number["e"] or number["power"] or "0").replace("^", "")
    if max(len(top), len(bottom)) > LONGEST or len(power) > 4 or abs(int(power)) > LONGEST or not Fraction(bottom):
        return None
    result = Fraction(top) / Fraction(bottom)
    if number["whole"] and result < 1:
        result += int(number["whole"])
    result *= Fraction(10) ** int(power) * _LETTERS.get(number["letter"], 1)
    result *= prod(_SCALES[scale] for scale in (number["scale"] or "").split())
    if number["dozen"] and result.denominator > 1:
        result *= 12  # 1.5 dozen; "3 dozen" stays 3, since the question may ask for dozens
    return -result if (number["sign"] or "+")[0] in "-nm" or number["inner"] == "-" else result


def spelled(text: str) -> Iterator[tuple[str, Fraction]]:
    """The numbers that a text has in words, and their values; "no one" and "one of them" are no numbers."""
    for found in _SPELLED.finditer(text):
        around = text[max(0, found.start() - 8) : found.start()], text[found.end() : found.end() + 9]
        if found[0].lower() != "one" or not any(map(_NO_NUMBER.search, around)):
            yield found[0], _worth(found)


def _worth(spelled: re.Match[str]) -> Fraction:
    """The value of a number in words: number words, then perhaps a fraction or decimals."""
    result = Fraction(_in_words(spelled["row"].lower()) if spelled["row"] else 0)
    share = spelled["share"] or spelled["rest"]
    if share:
        count, part = re.split("[ -]", share.lower())
        result += Fraction(_WORDS.get(count, 1), _PARTS[part[:3]])
    if spelled["digits"]:
        result += Fraction("0." + "".join(str(_WORDS[word]) for word in spelled["digits"].lower().split()))
    return -result if spelled["sign"] else result


def _in_words(text: str) -> int:
    """The last number in a text of number words."""
    done = part = 0  # twelve thousand and thirty: 12000 and 30
    for word in re.findall("[a-z]+", text):
        n = _WORDS.get(word)
        if n is not None:
            fits = part % 100 == 0 or (part % 10 == 0 and part % 100 >= 20 and 0 < n < 10)
            done, part = (done, part + n) if fits else (0, n)
        elif word == "hundred":
            part = (part or 1) * 100
        elif word == "dozen":
            done, part = done + (part or 1) * 12, 0
        elif word in _SCALES:
            done, part = done + (part or 1) * _SCALES[word], 0
    return done + part
