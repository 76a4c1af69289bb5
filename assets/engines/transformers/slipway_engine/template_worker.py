"""Renders chat templates for the engine, in a process of its own that may neither eat memory nor time.

A template comes with the model and is a program: the sandbox keeps it from touching Python, the limits of this process
from stalling the server. Reads one JSON line (template, messages, further variables), writes one JSON line (text or
error), until its input ends.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from transformers.utils.chat_template_utils import render_jinja_template

MEMORY = 256 << 20  # bytes that a rendering may add
CPU_S = 2  # whole seconds of the processor's time that a rendering may take at most, and one less at least


def _limit() -> None:
    """Bounds memory, and forbids new files and processes."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def _answer(line: str) -> dict[str, str]:
    asked = json.loads(line)
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + CPU_S
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))  # ends this process
    try:
        texts = render_jinja_template(
            [asked["messages"]], chat_template=asked["template"], add_generation_prompt=True, **asked["variables"]
        )
        text = texts[0][0] if isinstance(texts, tuple) else texts[0]
        return {"text": text}
    except MemoryError:
        return {"error": "it needs too much memory"}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:500]}


def main() -> None:
    """Serves until the input ends."""
    _limit()
    for line in sys.stdin:
        print(json.dumps(_answer(line)), flush=True)


if __name__ == "__main__":
    main()
