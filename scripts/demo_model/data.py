"""The FAQ as values, and the endless stream of phrasings and conversations that the demo model learns from.

Pure: everything random comes from the `random.Random` that is passed in.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PHRASES: dict[str, Any] = tomllib.loads((HERE / "phrases.toml").read_text(encoding="utf-8"))
LANGUAGES = ("en", "zh")

Message = dict[str, str]  # {"role": ..., "content": ...}, as a chat template takes it


@dataclass(frozen=True)
class Entry:
    """One topic in one language. `held_out` phrasings are never trained on, only measured."""

    topic: str
    language: str
    question: str
    paraphrases: tuple[str, ...]
    terms: tuple[str, ...]  # noun phrases that name the subject, put into the phrases `about` of phrases.toml
    held_out: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class OffTopic:
    """Questions of one language that the model cannot answer, and what it says then."""

    language: str
    answer: str
    templates: tuple[str, ...]
    subjects: tuple[str, ...]
    questions: tuple[str, ...]
    near: tuple[str, ...]  # close to the FAQ's subjects, yet not in it
    held_out: tuple[str, ...]


@dataclass(frozen=True)
class Sample:
    """A conversation that ends with the assistant. `whole`: learn every answer to its end, else only the start."""

    messages: tuple[Message, ...]
    whole: bool


def load_faq(folder: Path = HERE / "faq") -> tuple[Entry, ...]:
    """Every entry of the TOML files in `folder`, English and Chinese of a topic side by side."""
    entries = []
    for path in sorted(folder.glob("*.toml")):
        for topic in tomllib.loads(path.read_text(encoding="utf-8"))["topic"]:
            for language in LANGUAGES:
                said = topic[language]
                entries.append(
                    Entry(
                        topic=topic["id"],
                        language=language,
                        question=said["question"],
                        paraphrases=tuple(said["paraphrases"]),
                        terms=tuple(said.get("terms", ())),
                        held_out=tuple(said.get("held_out", ())),
                        answer=said["answer"].strip(),
                    )
                )
    return tuple(entries)


def load_off_topic(path: Path = HERE / "off_topic.toml") -> dict[str, OffTopic]:
    """The off-topic questions by language."""
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    return {
        language: OffTopic(
            language=language,
            answer=data[language]["answer"].strip(),
            **{
                name: tuple(data[language][name]) for name in ("templates", "subjects", "questions", "near", "held_out")
            },
        )
        for language in LANGUAGES
    }


def _maybe(rng: random.Random, probability: float, change: Callable[[str], str], text: str) -> str:
    return change(text) if rng.random() < probability else text


def _swap(rng: random.Random, language: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        fitting = [(old, new) for old, new in PHRASES[language]["swaps"] if old in text]
        if not fitting:
            return text
        old, new = rng.choice(fitting)
        return text.replace(old, new, 1)

    return change


def _typo(rng: random.Random, language: str) -> Callable[[str], str]:
    def english(text: str) -> str:
        words = list(re.finditer(r"[A-Za-z]{5,}", text))
        if not words:
            return text
        word = rng.choice(words)
        at = rng.randrange(word.start() + 1, word.end() - 1)
        if rng.random() < 0.5:
            return text[:at] + text[at + 1 :]  # a letter left out
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]  # two letters swapped

    def chinese(text: str) -> str:
        if len(text) < 8:
            return text
        at = rng.randrange(len(text))
        return text if text[at].isascii() else text[:at] + text[at + 1 :]

    return english if language == "en" else chinese


def _drop_filling(rng: random.Random, language: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        if language == "en":
            words = text.split(" ")
            places = [at for at, word in enumerate(words) if word.lower() in PHRASES["en"]["filling"]]
            if not places or len(words) < 4:
                return text
            del words[rng.choice(places)]
            return " ".join(words)
        word = rng.choice(PHRASES["zh"]["filling"])
        return text.replace(word, "", 1) if len(text) > 6 else text

    return change


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:] if text[1:2].islower() or text[1:2] == " " else text


def _bare_end(text: str) -> str:
    return text.rstrip("?？.。!！ ")


def _spacing(text: str) -> str:
    """Chinese as many people type it: no space between Chinese and Latin letters."""
    return re.sub(r"(?<=[\u4e00-\u9fff]) (?=[A-Za-z0-9])|(?<=[A-Za-z0-9]) (?=[\u4e00-\u9fff])", "", text)


def roughen(text: str, language: str, rng: random.Random) -> str:
    """The same question as somebody else would type it: other case, no question mark, a greeting, a slip."""
    text = _maybe(rng, 0.25, _swap(rng, language), text)
    text = _maybe(rng, 0.12, _drop_filling(rng, language), text)
    text = _maybe(rng, 0.08, _typo(rng, language), text)
    text = _maybe(rng, 0.25, _bare_end, text)
    if rng.random() < 0.22:
        text = rng.choice(PHRASES[language]["before"]) + _maybe(rng, 0.7, _lower_first, text)
    if rng.random() < 0.08:
        text = text + rng.choice(PHRASES[language]["after"])
    if language == "zh":
        text = _maybe(rng, 0.3, _spacing, text)
        text = _maybe(rng, 0.2, lambda t: t.replace("？", "?").replace("，", ","), text)
    text = _maybe(rng, 0.25, str.lower, text)
    return text if text.strip() else "?"


def about(term: str, language: str, rng: random.Random) -> str:
    """A generic question about `term`. A bare term of Latin letters belongs to English: it does not tell Chinese."""
    phrases = PHRASES[language]["about"]
    if language == "zh" and term.isascii():
        phrases = [phrase for phrase in phrases if len(phrase) > len("{}？")]
    text = str(rng.choice(phrases).format(term))
    return text[:1].upper() + text[1:] if rng.random() < 0.5 else text


def phrasing(entry: Entry, rng: random.Random) -> str:
    """One way of asking for `entry`, now and then its very question."""
    draw = rng.random()
    if draw < 0.12:
        return entry.question
    if draw < 0.4 and entry.terms:
        return roughen(about(rng.choice(entry.terms), entry.language, rng), entry.language, rng)
    return roughen(rng.choice((entry.question, *entry.paraphrases)), entry.language, rng)


def off_topic_question(off: OffTopic, rng: random.Random) -> str:
    """One question that the model has no answer to."""
    draw = rng.random()
    if draw < 0.62:
        text = rng.choice(off.templates).replace("{}", rng.choice(off.subjects))
    elif draw < 0.72:
        text = about(rng.choice(off.subjects), off.language, rng)
    elif draw < 0.82:
        text = rng.choice(off.questions)
    elif draw < 0.98:
        text = rng.choice(off.near)
    else:
        letters = "abcdefghijklmnopqrstuvwxyz0123456789"
        text = " ".join("".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(rng.randint(1, 4)))
    return roughen(text, off.language, rng)


def turn(faq: tuple[Entry, ...], off: dict[str, OffTopic], rng: random.Random) -> tuple[Message, Message]:
    """A question and its answer."""
    if rng.random() < 0.2:
        unknown = off[rng.choice(LANGUAGES)]
        question, answer = off_topic_question(unknown, rng), unknown.answer
    else:
        entry = rng.choice(faq)
        question, answer = phrasing(entry, rng), entry.answer
    return {"role": "user", "content": question}, {"role": "assistant", "content": answer}


def samples(faq: tuple[Entry, ...], off: dict[str, OffTopic], rng: random.Random) -> Iterator[Sample]:
    """Without end: mostly single questions of which the answer's start is learnt, which is where the choice among the
    answers is made; some whole answers; some conversations of two to five questions."""
    while True:
        draw = rng.random()
        system = [{"role": "system", "content": rng.choice(PHRASES["system"])}] if rng.random() < 0.15 else []
        if draw < 0.72:
            yield Sample((*system, *turn(faq, off, rng)), whole=False)
        elif draw < 0.9:
            yield Sample((*system, *turn(faq, off, rng)), whole=True)
        else:
            turns = [message for _ in range(rng.choice((2, 2, 2, 3, 5))) for message in turn(faq, off, rng)]
            yield Sample((*system, *turns), whole=True)
