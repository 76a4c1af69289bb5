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

HERE = Path(__file__).parent
LANGUAGES = ("en", "zh")

Message = dict[str, str]  # {"role": ..., "content": ...}, as a chat template takes it


@dataclass(frozen=True)
class Entry:
    """One topic in one language. `held_out` phrasings are never trained on, only measured."""

    topic: str
    language: str
    question: str
    paraphrases: tuple[str, ...]
    terms: tuple[str, ...]  # noun phrases that name the subject, put into the phrases of `ABOUT`
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
    """A conversation that ends with the assistant. `whole`: learn every answer to its end, else the last one's start."""

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
                name: tuple(data[language][name])
                for name in ("templates", "subjects", "questions", "near", "held_out")
            },
        )
        for language in LANGUAGES
    }


ABOUT = {
    "en": (
        "What is {}?", "What are {}?", "What does {} mean?", "Explain {}", "Explain {} to me", "Tell me about {}", "{}",
        "{}?", "Can you explain {}?", "I want to know about {}", "What is meant by {}?", "Describe {}",
        "What about {}?", "Help me understand {}", "I have a question about {}", "Say something about {}",
        "I do not understand {}", "Give me a short explanation of {}", "Define {}", "What do you know about {}?",
    ),
    "zh": (
        "{}是什么？", "什么是{}？", "{}", "{}？", "介绍一下{}", "解释一下{}", "{}是什么意思？", "请讲讲{}", "说说{}",
        "我想了解{}", "能解释一下{}吗？", "{}指的是什么？", "关于{}，你知道什么？", "{}怎么理解？", "给我讲讲{}",
        "我不懂{}", "简单说一下{}", "{}到底是什么？", "聊聊{}", "想请教一下{}",
    ),
}  # fmt: skip
BEFORE = {
    "en": (
        "Hi, ", "Hello, ", "Please tell me: ", "Quick question: ", "Can you tell me ", "I would like to know ", "So, ",
        "Excuse me, ", "One more thing: ", "OK, ", "Please, ", "Do you know ", "And ", "Hey, ", "I wonder, ", "Now: ",
        "I am new here. ", "Sorry, ",
    ),
    "zh": (
        "请问", "你好，", "你好，请问", "我想知道", "想问一下，", "麻烦问一下，", "请告诉我，", "那么，", "能告诉我", "另外，",
        "再问一个：", "我是新手，", "打扰一下，", "那", "对了，", "我有个问题：",
    ),
}  # fmt: skip
AFTER = {
    "en": (" Thanks.", " Please explain.", " Thank you!", " I am new to this.", " please", " In short, please.", " Any idea?"),
    "zh": ("谢谢。", "请说明一下。", "谢谢！", "我是新手。", "麻烦说一下。", "求解答", "简单说说。"),
}  # fmt: skip
SWAPS = {
    "en": (
        ("How do I", "How can I"), ("How do I", "How to"), ("How do I", "What is the way to"), ("How do I", "How would I"),
        ("Do I need", "Is it necessary to have"), ("Do I need", "Must I have"), ("What is", "What's"),
        ("Can I", "Is it possible to"), ("Can I", "May I"), ("Where are", "Where can I find"), ("Where is", "Where do I find"),
        ("Why does", "How come"), ("Which", "What"), ("should I", "do I"), ("I use", "we use"), ("do I", "does one"),
        ("my", "the"), ("a server", "the server"), ("the model", "a model"), ("mean", "stand for"), ("difference", "distinction"),
    ),
    "zh": (
        ("怎么", "如何"), ("怎么", "怎样"), ("如何", "怎么"), ("是什么", "是啥"), ("为什么", "为何"), ("为什么", "怎么会"),
        ("哪里", "哪儿"), ("在哪里", "在什么地方"), ("需要", "要"), ("可以", "能"), ("能", "可以"), ("多少", "多大"), ("我的", ""),
        ("吗？", "么？"), ("吗？", "？"), ("有什么", "有哪些"), ("该", "应该"), ("什么", "啥"), ("服务", "服务器"), ("区别", "不同"),
    ),
}  # fmt: skip
FILLING = {"en": ("the", "a", "an", "do", "does", "of", "to", "is", "for", "it", "my"), "zh": ("的", "了", "吗", "请", "一下", "是", "在")}


def _maybe(rng: random.Random, probability: float, change: Callable[[str], str], text: str) -> str:
    return change(text) if rng.random() < probability else text


def _swap(rng: random.Random, language: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        fitting = [(old, new) for old, new in SWAPS[language] if old in text]
        if not fitting:
            return text
        old, new = rng.choice(fitting)
        return text.replace(old, new, 1)

    return change


def _typo(rng: random.Random, language: str) -> Callable[[str], str]:
    def english(text: str) -> str:
        words = [m for m in re.finditer(r"[A-Za-z]{5,}", text)]
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
            places = [at for at, word in enumerate(words) if word.lower() in FILLING["en"]]
            if not places or len(words) < 4:
                return text
            del words[rng.choice(places)]
            return " ".join(words)
        word = rng.choice(FILLING["zh"])
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
        text = rng.choice(BEFORE[language]) + _maybe(rng, 0.7, _lower_first, text)
    if rng.random() < 0.08:
        text = text + rng.choice(AFTER[language])
    if language == "zh":
        text = _maybe(rng, 0.3, _spacing, text)
        text = _maybe(rng, 0.2, lambda t: t.replace("？", "?").replace("，", ","), text)
    text = _maybe(rng, 0.25, str.lower, text)
    return text if text.strip() else "?"


def about(term: str, language: str, rng: random.Random) -> str:
    """A generic question about `term`."""
    text = rng.choice(ABOUT[language]).format(term)
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


SYSTEM = (
    "You are a helpful assistant.", "You are Slipway's demo model.", "Answer briefly.", "你是一个有用的助手。",
    "请用中文回答。", "You answer questions about Triton and Slipway.", "Be concise and friendly.", "You are a pirate.",
    "简短回答。", "You are an expert in deploying language models.",
)  # fmt: skip


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
        system = [{"role": "system", "content": rng.choice(SYSTEM)}] if rng.random() < 0.15 else []
        if draw < 0.72:
            yield Sample((*system, *turn(faq, off, rng)), whole=False)
        elif draw < 0.9:
            yield Sample((*system, *turn(faq, off, rng)), whole=True)
        else:
            turns = [message for _ in range(rng.choice((2, 2, 2, 3, 5))) for message in turn(faq, off, rng)]
            yield Sample((*system, *turns), whole=True)
