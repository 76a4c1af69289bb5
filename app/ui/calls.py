"""Code that calls a deployment through the OpenAI-compatible API, and what tells Prometheus of the panel. Pure."""

from __future__ import annotations

import json
import shlex
from urllib.parse import urlsplit

KEY = "YOUR_KEY"


def curl(base: str, model: str, question: str, needs_key: bool) -> str:
    """A command for a POSIX shell."""
    body = {"model": model, "messages": [{"role": "user", "content": question}]}
    lines = [f"curl {shlex.quote(base + '/chat/completions')}", "-H 'Content-Type: application/json'"]
    if needs_key:
        lines.append(f"-H 'Authorization: Bearer {KEY}'")
    lines.append(f"-d {shlex.quote(json.dumps(body, ensure_ascii=False))}")
    return " \\\n  ".join(lines)


def python(base: str, model: str, question: str, needs_key: bool) -> str:
    """A script for the official client."""

    def literal(text: str) -> str:
        return json.dumps(text, ensure_ascii=False)

    return f"""from openai import OpenAI

client = OpenAI(base_url={literal(base)}, api_key={literal(KEY if needs_key else "none")})
answer = client.chat.completions.create(
    model={literal(model)},
    messages=[{{"role": "user", "content": {literal(question)}}}],
    stream=True,
)
for part in answer:
    print(part.choices[0].delta.content or "", end="", flush=True)
print()
"""


def scrape(base: str, needs_key: bool) -> str:
    """A part of prometheus.yml that reads the panel's /metrics."""
    where = urlsplit(base)
    lines = ["scrape_configs:", "  - job_name: slipway", f"    scheme: {where.scheme}"]
    if needs_key:
        lines += ["    authorization:", f"      credentials: {KEY}"]
    lines += ["    static_configs:", f'      - targets: ["{where.netloc}"]']
    return "\n".join(lines)
