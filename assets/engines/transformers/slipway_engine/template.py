"""The chat template: a conversation to a prompt, rendered in a bounded process beside the engine.

What a rendering may take is counted in the processor's time, not in the clock's: where a machine has too much to do, a
sound template waits for its turn as everything else does.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from .errors import RequestError
from .request import Message

PATIENCE_S = 30.0  # for an answer: at first its process imports what it needs, and a busy machine gives turns seldom
TEXT_LIMIT = 32 << 20  # bytes of a rendered prompt


class Template:
    """Renders one model's chat template. A rendering that takes too long loses its process; the next gets a new one."""

    def __init__(self, template: str, variables: dict[str, Any]) -> None:
        self._template, self._variables = template, variables
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._start()

    def render(self, messages: tuple[Message, ...]) -> str:
        """The prompt for a conversation, with the assistant's turn begun. Raises RequestError."""
        turns = [{"role": message.role, "content": message.content} for message in messages]
        asked = {"template": self._template, "messages": turns, "variables": self._variables}
        with self._lock:
            try:
                answer = self._ask(json.dumps(asked).encode() + b"\n")
            except (OSError, ValueError, TimeoutError) as error:
                self._stop()
                self._start()
                why = str(error) or type(error).__name__
                raise _failed(why) from None
        if "error" in answer:
            raise _failed(answer["error"])
        return str(answer["text"])

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            self._stop()

    def _ask(self, line: bytes) -> dict[str, Any]:
        if self._process is None or self._process.poll() is not None:
            self._stop()
            self._start()
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise ValueError("its process could not be started")
        deadline = time.monotonic() + PATIENCE_S
        writing = threading.Thread(target=_write, args=(process.stdin, line), daemon=True)
        writing.start()  # a long conversation fills the pipe before the process reads it
        received = bytearray()
        out = process.stdout.fileno()
        while not received.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([out], [], [], left)[0]:
                raise TimeoutError(f"there is no answer after {PATIENCE_S:.0f} s")
            part = os.read(out, 1 << 16)
            if not part:
                raise ValueError("it used more time or memory than a template may")
            received += part
            if len(received) > TEXT_LIMIT:
                raise ValueError(f"it makes a prompt of more than {TEXT_LIMIT >> 20} MiB")
        answer: dict[str, Any] = json.loads(received)
        return answer

    def _start(self) -> None:
        # sys.executable is not the interpreter when Python is embedded in Triton's stub
        python = Path(sys.prefix, "bin", "python3")
        command = str(python) if python.exists() else (shutil.which("python3") or sys.executable)
        self._process = subprocess.Popen(
            [command, str(Path(__file__).with_name("template_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()


def _write(pipe: Any, line: bytes) -> None:
    with contextlib.suppress(OSError, ValueError):  # the process is gone: the reader says so
        view = memoryview(line)
        while view:
            view = view[pipe.write(view) :]


def _failed(why: str) -> RequestError:
    return RequestError(
        "messages",
        f"The model's chat template could not be rendered: {why}. Check the conversation, or send a raw prompt as "
        "text_input.",
        f"无法渲染模型的对话模板：{why}。请检查对话内容，或改用 text_input 发送原始提示词。",
    )
