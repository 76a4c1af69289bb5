"""Words that a person sees, always in English and Simplified Chinese. Imports nothing of ours.

The two languages stand side by side where the words are used, so neither can be forgotten: the type asks for both.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")


class Text(BaseModel):
    """One sentence or label in both languages. Names, units and numbers are the same in both."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    en: str = Field(min_length=1)
    zh: str = Field(min_length=1)

    def of(self, language: Language) -> str:
        """The words in `language`."""
        return self.zh if language == "zh" else self.en

    def __add__(self, other: Text) -> Text:
        """Two sentences in a row: a space between them in English, none after a full-width stop in Chinese."""
        return Text(en=f"{self.en} {other.en}", zh=f"{self.zh}{other.zh}")

    def __str__(self) -> str:
        return self.en


def same(words: str) -> Text:
    """A name, a command, a number: what is written alike in both languages."""
    return Text(en=words, zh=words)
