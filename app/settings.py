"""One frozen Settings from flags and environment: what a person may set for the whole panel.

Read elsewhere, where they are used: the terminal's language (app/arguments.py), DOCKER_HOST, DOCKER_CONTEXT and
DOCKER_CONFIG (backends/docker_host.py), tokens and endpoints of the model hubs (backends/probes/model.py).
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import platformdirs
from pydantic import Field, ValidationError

from backends.errors import BadInput
from backends.reading import read
from backends.spec import Frozen, Sources
from backends.text import Language, Text

PROJECT = Path(__file__).resolve().parent.parent
ASSETS = PROJECT / "assets"


class Settings(Frozen):
    """What a person may set for the whole panel.

    `home` holds all that Slipway keeps. `model_roots` are the folders below which a model folder may lie.
    """

    home: Path
    host: str = "127.0.0.1"
    port: int = Field(default=7860, ge=1, le=65535)
    language: Language | None = None  # None: the terminal's or the browser's
    model_roots: tuple[Path, ...] = ()
    password: str | None = Field(default=None, repr=False)
    require_key: bool = False  # the API asks for a key on loopback too; off loopback it always does
    names: tuple[str, ...] = ()  # under which a reverse proxy makes the panel reachable
    watch_hosts: tuple[str, ...] = ()  # hosts besides this one whose servers may be watched
    sources: Sources = Sources()

    @property
    def loopback(self) -> bool:
        """True where only this machine can reach the panel; a proxy that gives it a name lets others in."""
        return self.host in ("127.0.0.1", "::1", "localhost") and not self.names


def settings(flags: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment, flags first.

    SLIPWAY_HOME (else the user's data directory), SLIPWAY_HOST, SLIPWAY_PORT, SLIPWAY_LANGUAGE (en, zh),
    SLIPWAY_MODEL_ROOTS (folders, parted as in PATH; else the person's home and the data folder), SLIPWAY_PASSWORD,
    SLIPWAY_REQUIRE_KEY (1: the API asks for a key on loopback too), SLIPWAY_NAMES (host names, parted by commas, under
    which a reverse proxy makes the panel reachable; a login is asked for then), SLIPWAY_WATCH_HOSTS (names or
    addresses, parted by commas, whose Triton servers may be watched), and a mirror or proxy for each field of
    `Sources`: SLIPWAY_TORCH_INDEX, SLIPWAY_REGISTRY_MIRROR, SLIPWAY_GIT_MIRROR, SLIPWAY_PIP_INDEX,
    SLIPWAY_HF_ENDPOINT, SLIPWAY_HTTP_PROXY, SLIPWAY_HTTPS_PROXY, SLIPWAY_NO_PROXY (else what pip, the Hugging Face
    library and curl read).
    Raises BadInput naming the variable or flag.
    """
    env = os.environ if environ is None else environ
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    home = home_folder(given.get("home"), env)
    roots = [Path(part).expanduser() for part in env.get("SLIPWAY_MODEL_ROOTS", "").split(os.pathsep) if part]
    return Settings(
        home=home,
        host=str(given.get("host") or env.get("SLIPWAY_HOST") or "127.0.0.1"),
        port=_port(given.get("port") or env.get("SLIPWAY_PORT") or 7860),
        language=_language(str(given.get("language") or env.get("SLIPWAY_LANGUAGE") or "")),
        model_roots=tuple(root.absolute() for root in (*roots, *([] if roots else [Path.home()]), home, ASSETS)),
        password=env.get("SLIPWAY_PASSWORD") or None,
        require_key=_yes("require_key", env.get("SLIPWAY_REQUIRE_KEY", "")),
        names=_names(str(given.get("names") or env.get("SLIPWAY_NAMES") or "")),
        watch_hosts=tuple(one.strip() for one in env.get("SLIPWAY_WATCH_HOSTS", "").split(",") if one.strip()),
        sources=_sources(env),
    )


def home_folder(flag: object = None, environ: Mapping[str, str] | None = None) -> Path:
    """The data folder: the flag's, SLIPWAY_HOME, or the one in the user's data directory. Raises BadInput."""
    env = os.environ if environ is None else environ
    told = str(flag or env.get("SLIPWAY_HOME") or platformdirs.user_data_dir("slipway"))
    try:
        return Path(told).expanduser().absolute()
    except RuntimeError:  # ~name of somebody whom this machine does not know
        raise BadInput(
            "home",
            Text(en=f"home: “{told}” is no folder: there is no such user.", zh=f"home：“{told}”不是目录：没有该用户。"),
            Text(en="Write the folder out, from / on.", zh="请写出完整路径，以 / 开头。"),
        ) from None


_USUAL = {  # fields of Sources that other programs' variables fill too
    "pip_index": ("PIP_INDEX_URL",),
    "hf_endpoint": ("HF_ENDPOINT",),
    "http_proxy": ("http_proxy", "HTTP_PROXY"),
    "https_proxy": ("https_proxy", "HTTPS_PROXY"),
    "no_proxy": ("no_proxy", "NO_PROXY"),
}


def _sources(env: Mapping[str, str]) -> Sources:
    """Mirrors and proxies. A usual variable that Slipway may not show (a login is in it) stays with its own program."""
    usual_places = tomllib.loads((ASSETS / "runtime" / "sources.toml").read_text(encoding="utf-8"))
    own = {name: value for name in Sources.model_fields if (value := env.get(f"SLIPWAY_{name.upper()}"))}
    named = usual_places | own
    chosen = read(Sources, named, "sources").model_dump()
    for name, usual in _USUAL.items():
        value = next((env[one] for one in usual if env.get(one)), None)
        if chosen[name] is None and value is not None:
            try:
                chosen[name] = Sources.model_validate({name: value}).model_dump()[name]
            except ValidationError:
                continue
    return Sources.model_validate(chosen)


def _port(value: object) -> int:
    try:
        port = int(str(value))
    except ValueError:
        port = 0
    if not 1 <= port <= 65535:
        raise BadInput(
            "port",
            Text(en=f"port: “{value}” is not a port.", zh=f"port：“{value}”不是端口。"),
            Text(en="Give a number from 1 to 65535, such as 7860.", zh="填写 1 到 65535 之间的数字，例如 7860。"),
        )
    return port


_HOST_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*")


def _names(told: str) -> tuple[str, ...]:
    names = tuple(one.strip().lower() for one in told.split(",") if one.strip())
    for name in names:
        if not _HOST_NAME.fullmatch(name):
            raise BadInput(
                "names",
                Text(en=f"names: “{name}” is not a host name.", zh=f"names：“{name}”不是主机名。"),
                Text(
                    en="Write names alone, without http:// or a port, such as slipway.example.org.",
                    zh="只写主机名，不带 http:// 和端口，例如 slipway.example.org。",
                ),
            )
    return names


def _yes(field: str, value: str) -> bool:
    if value.lower() in ("", "0", "no", "false", "off"):
        return False
    if value.lower() in ("1", "yes", "true", "on"):
        return True
    raise BadInput(
        field,
        Text(en=f"{field}: “{value}” is neither yes nor no.", zh=f"{field}：“{value}”不是是或否。"),
        Text(en="Use 1 or 0.", zh="填写 1 或 0。"),
    )


def _language(value: str) -> Language | None:
    if not value:
        return None
    if value.lower().startswith("zh"):
        return "zh"
    if value.lower().startswith("en"):
        return "en"
    raise BadInput(
        "language",
        Text(en=f"language: “{value}” is not known.", zh=f"language：不支持“{value}”。"),
        Text(en="Use en or zh.", zh="可选 en 或 zh。"),
    )
