"""The rows. `migrations` makes the tables; a test holds the two together."""

from __future__ import annotations

from sqlmodel import Field, SQLModel


class RunRow(SQLModel, table=True):
    """One run. Values of the vocabulary are JSON; times are ISO 8601 in UTC, so they sort as text. `words` is what the
    history is searched in."""

    __tablename__ = "run"

    id: str = Field(primary_key=True)
    name: str
    state: str
    engine: str
    model: str
    target: str
    spec: str
    plan: str
    spec_digest: str
    created_at: str
    ready_at: str | None = None
    finished_at: str | None = None
    attempt: int = 1
    stop_asked: bool = False
    endpoint: str | None = None
    trouble: str | None = None
    answer: str | None = None
    measured: str = "{}"
    pinned: bool = False
    words: str = ""


class EventRow(SQLModel, table=True):
    """One event. `seq` grows over all runs, so it serves as the cursor of any viewer."""

    __tablename__ = "event"

    seq: int | None = Field(default=None, primary_key=True)
    run: str
    step: str | None = None
    kind: str
    at: str
    body: str


class KeyRow(SQLModel, table=True):
    """One key. `digest` is the SHA-256 of its token."""

    __tablename__ = "api_key"

    id: str = Field(primary_key=True)
    name: str
    digest: str
    created_at: str
    last_used_at: str | None = None
    revoked_at: str | None = None


class ConversationRow(SQLModel, table=True):
    """One conversation. `head` is the last message of the branch that is shown, `twin` another that hears the same."""

    __tablename__ = "conversation"

    id: str = Field(primary_key=True)
    name: str
    run: str | None = None
    engine: str
    model: str
    created_at: str
    updated_at: str
    system: str = ""
    sampling: str = "{}"
    head: int | None = None
    twin: str | None = None


class MessageRow(SQLModel, table=True):
    """One message. `id` grows, so it orders the messages in time."""

    __tablename__ = "message"

    id: int | None = Field(default=None, primary_key=True)
    conversation: str
    parent: int | None = None
    position: int
    role: str
    content: str
    figures: str = "{}"
    at: str


class ChoiceRow(SQLModel, table=True):
    """One thing that a person chose for the whole panel. `value` is JSON."""

    __tablename__ = "choice"

    name: str = Field(primary_key=True)
    value: str


class WatchedRow(SQLModel, table=True):
    """One server that Slipway did not start. `server` is JSON, `address` what its host was resolved to."""

    __tablename__ = "watched_server"

    id: str = Field(primary_key=True)
    server: str
    address: str
    added_at: str
