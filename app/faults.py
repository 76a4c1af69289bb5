"""Whatever went wrong, in words for a person at a terminal: nobody is shown a traceback."""

from __future__ import annotations

import errno
import os
import traceback
from datetime import UTC, datetime
from pathlib import Path

from app.settings import home_folder
from backends.errors import NotKept, SlipwayError, Unexpected
from backends.targets.base import SECRET_NAME, redact
from backends.text import Text
from storage.database import refused as storage_refused

LOG = "errors.log"  # below the data folder
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)


def in_words(error: Exception, home_flag: object = None) -> SlipwayError:
    """The error itself where it speaks to people; NotKept where database or disk refused; else Unexpected, with its
    traceback in a file of the data folder (that of `home_flag`, as `settings` finds it)."""
    if isinstance(error, SlipwayError):
        return error
    home = home_folder(home_flag)
    refused = storage_refused(error)
    if refused is not None:
        return refused
    if isinstance(error, OSError) and error.errno in _CLOSED and _below(home, error.filename):
        return NotKept(
            Text(en=f"{error.filename} cannot be used: {error.strerror}.",
                 zh=f"{error.filename} 无法使用：{error.strerror}。"),
            Text(en="Look at who may write to the data folder, or choose another with --home or SLIPWAY_HOME.",
                 zh="请检查数据目录的权限，或用 --home 或 SLIPWAY_HOME 更换。"),
            "home",
        )  # fmt: skip
    kind = type(error).__name__
    return Unexpected(
        Text(en=f"This is a fault of Slipway itself ({kind}).", zh=f"Slipway 自身出错（{kind}）。"), _noted(error, home)
    )


def _noted(error: Exception, home: Path) -> Text:
    """Writes the traceback down, without secrets, and says where it is."""
    told = redact(
        "".join(traceback.format_exception(error)), [os.environ[n] for n in os.environ if SECRET_NAME.search(n)]
    )
    path = home / LOG
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a", encoding="utf-8") as file:
            file.write(f"{datetime.now(UTC).isoformat()}\n{told}\n")
    except OSError as refused:
        return Text(
            en=f"Its details could not be written to {path}: {refused.strerror}.",
            zh=f"详情无法写入 {path}：{refused.strerror}。",
        )
    return Text(en=f"Its details are in {path}. Please report them.", zh=f"详情见 {path}，请反馈给我们。")


def _below(home: Path, path: object) -> bool:
    return isinstance(path, str | os.PathLike) and Path(path).is_relative_to(home)
