"""Mirrors and proxies put into a plan, so that every step uses them and the plan shows them. Pure.

They say where things come from, not what they are, so they stand apart from a step's own variables and outside its
fingerprint: the same package through another mirror is the same package.
"""

from __future__ import annotations

import re

from backends.spec import Sources
from backends.steps import BuildImage, FetchSource, Plan, PullImage, Service, Step, Task

GITHUB = "https://github.com/"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_KNOWN_TO_BUILDERS = ("http_proxy", "https_proxy", "no_proxy")  # in either case; no ARG, so no image keeps them
_HEREDOC = re.compile(r"<<-?[\"']?(\w+)")


def applied(plan: Plan, sources: Sources) -> Plan:
    """The plan with the mirrors and proxies in each step that may fetch something."""
    return plan.model_copy(update={"steps": tuple(_applied(step, sources) for step in plan.steps)})


def variables(sources: Sources) -> dict[str, str]:
    """Environment variables that pip, git, the Hugging Face library and everything that knows proxies read.

    git: https://git-scm.com/docs/git-config (GIT_CONFIG_COUNT, url.<base>.insteadOf).
    """
    found: dict[str, str] = {}
    if sources.pip_index:
        found["PIP_INDEX_URL"] = sources.pip_index
    if sources.hf_endpoint:
        found["HF_ENDPOINT"] = sources.hf_endpoint.rstrip("/")
    if sources.git_mirror:
        found |= {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{sources.git_mirror.rstrip('/')}/.insteadOf",
            "GIT_CONFIG_VALUE_0": GITHUB,
        }
    for name, value in (("http_proxy", sources.http_proxy), ("https_proxy", sources.https_proxy)):
        if value:
            found |= {name: value, name.upper(): value}  # curl reads http_proxy in small letters only
    if sources.http_proxy or sources.https_proxy:
        named = [host.strip() for host in (sources.no_proxy or "").split(",") if host.strip()]
        direct = ",".join([*named, *(host for host in _LOOPBACK if host not in named)])
        found |= {"no_proxy": direct, "NO_PROXY": direct}
    return found


def declared(step: BuildImage) -> tuple[str, ...]:
    """The build arguments of a step's sources that a Dockerfile must declare before its commands see them."""
    return tuple(name for name in step.sources if name.lower() not in _KNOWN_TO_BUILDERS)


def with_arguments(dockerfile: str, names: tuple[str, ...]) -> str:
    """A Dockerfile whose stages all declare these build arguments: without that no command of a build sees them."""
    lines: list[str] = []
    begun, until = False, None  # in the middle of an instruction; the word that ends a here-document
    for line in dockerfile.splitlines():
        lines.append(line)
        if until is not None:
            until = None if line.strip() == until else until
            continue
        bare = line.strip()
        if bare.startswith("#") or not bare:
            continue
        first = not begun
        begun = bare.endswith("\\")
        found = _HEREDOC.search(bare) if bare.upper().startswith(("RUN ", "COPY ", "ADD ")) else None
        until = found[1] if found else None
        if first and not begun and bare.upper().startswith("FROM "):
            lines += [f"ARG {name}" for name in names]
    return "\n".join(lines) + "\n"


def mirrored(image: str, mirror: str) -> str:
    """An image's name behind a mirror: the registry is spelled out, since a mirror serves several."""
    first, slash, _ = image.partition("/")
    if not slash:
        image = f"docker.io/library/{image}"
    elif not ("." in first or ":" in first or first == "localhost"):
        image = f"docker.io/{image}"
    return f"{mirror.rstrip('/')}/{image}"


def _old_git(sources: Sources) -> dict[str, str]:
    """The git mirror once more, as git before 2.31 reads it, which the images of 22.03 to 23.04 have (Ubuntu 20.04)."""
    if not sources.git_mirror:
        return {}
    return {"GIT_CONFIG_PARAMETERS": f"'url.{sources.git_mirror.rstrip('/')}/.insteadOf={GITHUB}'"}


def _applied(step: Step, sources: Sources) -> Step:
    if isinstance(step, PullImage) and sources.registry_mirror:
        return step.model_copy(update={"mirror": mirrored(step.image, sources.registry_mirror)})
    if isinstance(step, BuildImage):
        return step.model_copy(update={"sources": variables(sources) | _old_git(sources)})
    if isinstance(step, Task | FetchSource | Service):
        return step.model_copy(update={"sources": variables(sources)})
    return step
