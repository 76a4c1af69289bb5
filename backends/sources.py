"""Mirrors and proxies put into a plan, so that every step uses them and the plan shows them. Pure.

They say where things come from, not what they are, so they stand apart from a step's own variables and outside its
fingerprint: the same package through another mirror is the same package.
"""

from __future__ import annotations

from backends.spec import Sources
from backends.steps import BuildImage, FetchSource, Plan, PullImage, Service, Step, Task

GITHUB = "https://github.com/"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


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


def mirrored(image: str, mirror: str) -> str:
    """An image's name behind a mirror: the registry is spelled out, since a mirror serves several."""
    first, slash, _ = image.partition("/")
    if not slash:
        image = f"docker.io/library/{image}"
    elif not ("." in first or ":" in first or first == "localhost"):
        image = f"docker.io/{image}"
    return f"{mirror.rstrip('/')}/{image}"


def _applied(step: Step, sources: Sources) -> Step:
    if isinstance(step, PullImage) and sources.registry_mirror:
        return step.model_copy(update={"mirror": mirrored(step.image, sources.registry_mirror)})
    if isinstance(step, Task | FetchSource | BuildImage | Service):
        return step.model_copy(update={"sources": variables(sources)})
    return step
