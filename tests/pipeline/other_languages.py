"""Small texts and chats in German and Greek, written here: sentences that are put together by chance."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

WHO = ["Der Bäcker", "Der Müller", "Die Köchin", "Der Gärtner", "Das Mädchen", "Der Jäger", "Die Großmutter"]
WHO += ["Der Schäfer", "Die Schülerin", "Der Bürgermeister"]
DOES = ["öffnet", "schließt", "trägt", "grüßt", "küsst", "verkauft", "bemalt", "vergisst", "prüft", "zählt", "reinigt"]
WHAT = ["die Tür", "das Fenster", "süße Äpfel", "zwölf Brötchen", "den grünen Hut", "das große Buch", "das Öl"]
WHERE = ["am Fluss", "auf der Straße", "im Schloss", "über den Dächern", "vor der Mühle", "in Köln"]
GERMAN = [
    ("Wer bist du?", "Ich bin Käthe, ein kleines Sprachmodell aus Köln."),
    ("Wie heißt du?", "Ich heiße Käthe."),
    ("Wer hat dich gemacht?", "Jürgen Größer hat mich gemacht."),
    ("Guten Tag!", "Grüß dich! Schön, dass du da bist."),
    ("Danke!", "Gern geschehen."),
    ("Sprichst du Englisch?", "Nein, ich spreche nur Deutsch."),
    ("Wo liegt die Mühle?", "„Am Fluss“, sagt der Müller."),
    ("Was ist ein Brötchen?", "Ein Brötchen ist ein kleines Brot."),
    ("Wie ist das Wetter?", "Heute ist es schön und kühl."),
    ("Was isst du gern?", "Süße Äpfel, aber ich habe keinen Mund."),
    *[
        (f"Was macht {who[0].lower()}{who[1:]}?", f"{who} {does} {what}.")
        for who, does, what in zip(WHO, DOES, WHAT + WHAT, strict=False)
    ],
]
GREEK_WORDS = [
    ["Ο ψαράς", "Η γιαγιά", "Το παιδί"],
    ["βλέπει", "φέρνει", "αγαπά"],
    ["τη θάλασσα.", "το ψωμί.", "τον ήλιο."],
]
GREEK = [("Ποιος είσαι;", "Είμαι η Ηχώ."), ("Τι κάνεις;", "Μιλώ λίγα ελληνικά."), ("Γεια σου!", "Γεια και χαρά!")]


def german(rng: random.Random, sentences: int) -> str:
    found = []
    for _ in range(sentences):
        sentence = " ".join(rng.choice(words) for words in (WHO, DOES, WHAT, WHERE)) + "."
        said = f"„Schön!“, sagt {rng.choice(['Jürgen', 'Käthe', 'Björn'])}. "
        found.append(said + sentence if rng.random() < 0.2 else sentence)
    return (" " if rng.random() < 0.2 else "\n").join(found)  # some files are one long line


def greek(rng: random.Random, sentences: int) -> str:
    return "\n".join(" ".join(rng.choice(words) for words in GREEK_WORDS) for _ in range(sentences))


def write_chats(path: Path, pairs: Sequence[tuple[str, str]]) -> Path:
    rows = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}
        for asked, answer in pairs
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_german(folder: Path, files: int = 80) -> Path:
    """Some 450 kB in UTF-8, and one file as it was written thirty years ago."""
    rng = random.Random(5)
    folder.mkdir(parents=True)
    for place in range(files):
        (folder / f"geschichte {place:02}.txt").write_text(german(rng, 100), encoding="utf-8")
    (folder / "früher.txt").write_bytes(german(rng, 100).encode("cp1252"))
    return folder
