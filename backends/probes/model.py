"""Looks at a model: a folder, the demo model, or an id on Hugging Face or ModelScope. Reads a few small files only.

Code that comes with a model is never run and weights are never loaded. Over the net only config.json, the tokenizer's
small files and safetensors headers (by range) are fetched; a token is taken from HF_TOKEN or MODELSCOPE_API_TOKEN (or
the hub's own login file) and never shown.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import httpx

from backends.errors import BadInput, NotFound, SlipwayError, Unreachable
from backends.headers import parse_json
from backends.model_files import describe
from backends.spec import Model, ModelSource
from backends.text import Text

_MIB = 2**20
_MOST_FILES = 20_000
_HUGGING_FACE, _MODELSCOPE = "https://huggingface.co", "https://www.modelscope.cn"


def inspect(
    source: ModelSource,
    *,
    allowed_roots: Sequence[Path],
    demo_folder: Path,
    hub_cache: Path | None = None,
    timeout_s: float = 20.0,
    environment: Mapping[str, str] | None = None,
) -> Model:
    """The facts of the model behind `source`.

    `allowed_roots` are the folders that models may lie under; `hub_cache` is Hugging Face's cache (None: where it is by
    default), used where the hub is out of reach; `environment` names HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE,
    MODELSCOPE_ENDPOINT and MODELSCOPE_API_TOKEN (None: this process's own). Reading over the net ends after `timeout_s`
    seconds in all.

    Raises BadInput for what cannot be served, NotFound for an id that the hub does not have, Unreachable for a hub that
    does not answer or does not let us in.
    """
    environment = os.environ if environment is None else environment
    if source.kind == "demo":
        return describe(_Folder(demo_folder, (demo_folder,)), source, library_defaults)
    if source.kind == "folder":
        return describe(_Folder(find_folder(source.id, allowed_roots), allowed_roots), source, library_defaults)
    if source.kind == "modelscope":
        with _client(timeout_s) as client:
            return describe(_ModelScope(client, source, environment, timeout_s), source, library_defaults)
    return _inspect_hugging_face(source, hub_cache, timeout_s, environment)


def _inspect_hugging_face(
    source: ModelSource, hub_cache: Path | None, timeout_s: float, environment: Mapping[str, str]
) -> Model:
    """From the hub; where it is out of reach, from what an earlier download left in the cache."""
    offline = environment.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    if not offline:
        try:
            with _client(timeout_s) as client:
                return describe(_HuggingFace(client, source, environment, timeout_s), source, library_defaults)
        except Unreachable as error:
            if isinstance(error, _NotLetIn) or (cached := _cached(source, hub_cache)) is None:
                raise
    elif (cached := _cached(source, hub_cache)) is None:
        raise Unreachable(
            Text(
                en=f"HF_HUB_OFFLINE is set and {source.id} is not in the cache.",
                zh=f"已设置 HF_HUB_OFFLINE，且缓存中没有 {source.id}。",
            ),
            Text(en="Unset it, or give the folder of a copy.", zh="取消该变量，或填写本地副本的文件夹。"),
            "model",
        )
    model = describe(_Folder(cached, (cached.parent.parent,)), source, library_defaults)
    note = Text(
        en="The hub was not reached; the facts are those of the copy in the cache.",
        zh="未连接模型站，以下为缓存副本的数据。",
    )
    return model.model_copy(update={"notes": (note, *model.notes)})


def _cached(source: ModelSource, hub_cache: Path | None) -> Path | None:
    """The folder of this model's snapshot in Hugging Face's cache, if a whole one is there."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    cache = hub_cache or Path(constants.HF_HUB_CACHE)
    try:
        found = snapshot_download(source.id, revision=source.revision, cache_dir=cache, local_files_only=True)
    except (LocalEntryNotFoundError, FileNotFoundError):
        return None
    return Path(found)


def library_defaults(model_type: str) -> Mapping[str, object]:
    """What transformers itself fills into a config.json of this type; nothing for a type that it does not know.

    Only classes of the library are used, never the model's own code. Slow: the library is imported at the first call.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if model_type not in CONFIG_MAPPING:
        return {}
    told: dict[str, object] = CONFIG_MAPPING[model_type]().to_dict()
    return {name: value for name, value in told.items() if name not in ("architectures", "dtype", "torch_dtype")}


# --- folders ------------------------------------------------------------------------------------------------------


def find_folder(path: str, allowed_roots: Sequence[Path]) -> Path:
    """The real folder behind a path that a person gave, symbolic links followed. Relative paths start at a root.

    Raises BadInput where it is not there, is no folder, or leads out of the allowed roots.
    """
    roots = [root.resolve() for root in allowed_roots]
    given = Path(path).expanduser()
    tries = [given] if given.is_absolute() else [root / given for root in roots]
    allowed = [real for place in tries if _under(real := _resolve(place), roots)]
    if not allowed:
        listed = ", ".join(str(root) for root in roots)
        raise BadInput(
            "model",
            Text(
                en=f"{path} does not lie under a folder that models may come from.",
                zh=f"{path} 不在允许存放模型的文件夹内。",
            ),
            Text(
                en=f"Allowed: {listed}. Set SLIPWAY_MODEL_ROOTS to allow others.",
                zh=f"允许：{listed}。可用 SLIPWAY_MODEL_ROOTS 另行指定。",
            ),
        )
    there = [place for place in allowed if place.exists()]
    if not there:
        raise BadInput(
            "model",
            Text(en=f"{path} is not there.", zh=f"{path} 不存在。"),
            Text(
                en="Check the spelling; the path is one on the machine that runs Slipway.",
                zh="检查拼写；路径应在运行 Slipway 的机器上。",
            ),
        )
    if not there[0].is_dir():
        raise BadInput(
            "model",
            Text(en=f"{path} is not a folder.", zh=f"{path} 不是文件夹。"),
            Text(en="Give the folder that holds config.json.", zh="请填写包含 config.json 的文件夹。"),
        )
    return there[0]


def _resolve(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name too long
        return Path("/dev/null")


def _under(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


class _Folder:
    """A folder as a shelf. A link inside it may lead only where models may lie."""

    remote = False
    parameters: int | None = None

    def __init__(self, folder: Path, allowed_roots: Sequence[Path]) -> None:
        self._folder = folder
        self._roots = [folder.resolve(), *(root.resolve() for root in allowed_roots)]

    def sizes(self) -> Mapping[str, int | None]:
        try:
            found: dict[str, int | None] = {}
            for entry in os.scandir(self._folder):
                if len(found) >= _MOST_FILES:
                    break
                if entry.is_file():
                    found[entry.name] = entry.stat().st_size
            return found
        except OSError as error:
            raise BadInput(
                "model",
                Text(
                    en=f"{self._folder} cannot be read: {error.strerror}.",
                    zh=f"无法读取 {self._folder}：{error.strerror}。",
                ),
                Text(en="Let the user who runs Slipway read it.", zh="请让运行 Slipway 的用户有读取权限。"),
            ) from None

    def read(self, name: str, limit: int) -> bytes:
        data = self.part(name, 0, limit + 1)
        if len(data) > limit:
            raise _too_large(name, limit)
        return data

    def part(self, name: str, offset: int, length: int) -> bytes:
        real = _resolve(self._folder / name)
        if not _under(real, self._roots):
            raise BadInput(
                "model",
                Text(
                    en=f"{name} is a link that leads out of the folders that models may come from.",
                    zh=f"{name} 是链接，指向允许范围之外。",
                ),
                Text(en="Put the file itself into the folder.", zh="请将文件本身放入该文件夹。"),
            )
        try:
            handle = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError as error:
            raise BadInput(
                "model",
                Text(en=f"{name} cannot be opened: {error.strerror}.", zh=f"无法打开 {name}：{error.strerror}。"),
                Text(en="Let the user who runs Slipway read it.", zh="请让运行 Slipway 的用户有读取权限。"),
            ) from None
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise BadInput("model", Text(en=f"{name} is not a plain file.", zh=f"{name} 不是普通文件。"))
            file.seek(offset)
            return file.read(length)


def _too_large(name: str, limit: int) -> BadInput:
    return BadInput(
        "model",
        Text(
            en=f"{name} is larger than {limit // _MIB} MiB, so it is not read.",
            zh=f"{name} 超过 {limit // _MIB} MiB，不予读取。",
        ),
        Text(en="Fetch it again from where the model came from.", zh="从模型来源处重新取得该文件。"),
    )


# --- hubs ---------------------------------------------------------------------------------------------------------


class _NotLetIn(Unreachable):
    """The hub answers, but not to us: gated, private, or a token that it does not take."""


def _client(timeout_s: float) -> httpx.Client:
    return httpx.Client(timeout=min(timeout_s, 10.0), follow_redirects=True, max_redirects=5)


class _Hub:
    """What both hubs share: bounded reading within one deadline, and words for what can go wrong."""

    remote = True
    parameters: int | None = None
    name = ""
    token_variable = ""
    endpoint_variable = ""
    home = ""
    pages = ""  # folder of the site where models have their pages

    def __init__(
        self, client: httpx.Client, source: ModelSource, environment: Mapping[str, str], timeout_s: float
    ) -> None:
        self._client = client
        self._source = source
        self._deadline = time.monotonic() + timeout_s
        self._environment = environment
        self._headers = self.sign_in()

    def sign_in(self) -> dict[str, str]:
        token = self._environment.get(self.token_variable, "").strip()
        return {"Authorization": f"Bearer {token}"} if token else {}

    def url(self, name: str) -> str:
        """Where the file `name` is fetched."""
        raise NotImplementedError

    def read(self, name: str, limit: int) -> bytes:
        data = self.get(self.url(name), limit + 1)
        if len(data) > limit:
            raise _too_large(name, limit)
        return data

    def part(self, name: str, offset: int, length: int) -> bytes:
        return self.get(self.url(name), length, {"Range": f"bytes={offset}-{offset + length - 1}"}, offset)

    def get(self, url: str, most: int, headers: Mapping[str, str] | None = None, skip: int = 0) -> bytes:
        """Up to `most` bytes of the answer. A server that ignores Range is read up to the part, within reason."""
        try:
            with self._client.stream("GET", url, headers={**self._headers, **(headers or {})}) as answer:
                if answer.status_code >= 400:
                    raise self.refusal(answer)
                skip = 0 if answer.status_code == 206 else skip
                if skip > 64 * _MIB:
                    raise self.out_of_reach("it does not send parts of files")
                data = bytearray()
                for piece in answer.iter_bytes(65536):
                    data += piece
                    if time.monotonic() > self._deadline:
                        raise self.out_of_reach("it took too long")
                    if len(data) > most + skip:
                        break
                return bytes(data[skip : skip + most])
        except httpx.HTTPError as error:
            raise self.out_of_reach(type(error).__name__) from None
        except httpx.InvalidURL:
            raise self.out_of_reach("its address is not a URL") from None

    def out_of_reach(self, why: str) -> Unreachable:
        return Unreachable(
            Text(
                en=f"{self.name} ({self.host}) was not reached: {why}.",
                zh=f"无法连接 {self.name}（{self.host}）：{why}。",
            ),
            Text(
                en=f"Check the network, set {self.endpoint_variable} to a mirror, or give the folder of a copy.",
                zh=f"检查网络，将 {self.endpoint_variable} 设为镜像地址，或填写本地副本的文件夹。",
            ),
            "model",
        )

    @property
    def endpoint(self) -> str:
        return (self._environment.get(self.endpoint_variable) or self.home).rstrip("/")

    @property
    def host(self) -> str:
        """The hub's host and port."""
        try:
            return httpx.URL(self.endpoint).netloc.decode()
        except httpx.InvalidURL:
            return self.endpoint_variable

    @property
    def page(self) -> str:
        """The model's page, without a name or password that the endpoint may carry."""
        address = httpx.URL(f"{self.endpoint}/{self.pages}{self._source.id}")
        return str(address.copy_with(userinfo=b""))

    def refusal(self, answer: httpx.Response) -> SlipwayError:
        """What a status of 400 and above means here."""
        code = answer.headers.get("X-Error-Code", "")
        model, token = self._source.id, self.token_variable
        if code == "RevisionNotFound":
            revision = self._source.revision
            return NotFound(
                Text(en=f"{model} has no revision “{revision}”.", zh=f"{model} 没有修订版本“{revision}”。"),
                Text(
                    en="Leave it empty for the newest, or give a branch, tag or commit.",
                    zh="留空取最新，或填写分支、标签、提交。",
                ),
                "model",
            )
        if code == "GatedRepo" or answer.status_code == 403:
            return _NotLetIn(
                Text(en=f"{model} is gated: its owner must let you in first.", zh=f"{model} 需先获得所有者授权。"),
                Text(
                    en=f"Ask for access at {self.page}, then set {token} and start Slipway again.",
                    zh=f"在 {self.page} 申请访问，再设置 {token} 并重新启动 Slipway。",
                ),
                "model",
            )
        if answer.status_code == 401 and code != "RepoNotFound" and self._headers:
            return _NotLetIn(
                Text(
                    en=f"{self.name} does not take the token in {token}.", zh=f"{self.name} 不接受 {token} 中的令牌。"
                ),
                Text(en="Make a new one with read access.", zh="请新建一个具有读取权限的令牌。"),
                "model",
            )
        if answer.status_code in (401, 404):
            return NotFound(
                Text(en=f"{self.name} has no public model “{model}”.", zh=f"{self.name} 上没有公开模型“{model}”。"),
                Text(
                    en=f"Check owner and name; for a private one set {token}.",
                    zh=f"检查所有者与名称；私有模型需设置 {token}。",
                ),
                "model",
            )
        if answer.status_code == 429:
            return self.out_of_reach("too many requests, try again in a minute")
        return self.out_of_reach(f"it answered {answer.status_code}")


class _HuggingFace(_Hub):
    """Hugging Face, or a mirror that speaks its paths (HF_ENDPOINT)."""

    name = "Hugging Face"
    token_variable = "HF_TOKEN"
    endpoint_variable = "HF_ENDPOINT"
    home = _HUGGING_FACE

    def sign_in(self) -> dict[str, str]:
        if self._environment is not os.environ:
            return super().sign_in()
        from huggingface_hub import get_token  # also finds the token that `hf auth login` left

        token = get_token()
        return {"Authorization": f"Bearer {token}"} if token else {}

    def url(self, name: str) -> str:
        return (
            f"{self.endpoint}/{self._source.id}/resolve/{quote(self._source.revision or 'main', safe='')}/{quote(name)}"
        )

    def sizes(self) -> Mapping[str, int | None]:
        revision = quote(self._source.revision or "main", safe="")
        data = self.get(f"{self.endpoint}/api/models/{self._source.id}/revision/{revision}?blobs=true", 32 * _MIB)
        told = parse_json("the hub's answer", data)
        counted = told.get("safetensors")
        total = counted.get("total") if isinstance(counted, dict) else None
        self.parameters = total if type(total) is int and total > 0 else None
        return _listed(told.get("siblings"), "rfilename", "size")


class _ModelScope(_Hub):
    """ModelScope."""

    name = "ModelScope"
    token_variable = "MODELSCOPE_API_TOKEN"
    endpoint_variable = "MODELSCOPE_ENDPOINT"
    home = _MODELSCOPE
    pages = "models/"

    def _address(self, rest: str) -> str:
        revision = quote(self._source.revision or "master", safe="")
        return f"{self.endpoint}/api/v1/models/{self._source.id}/repo{rest}Revision={revision}"

    def url(self, name: str) -> str:
        return f"{self._address('?')}&FilePath={quote(name, safe='')}"

    def sizes(self) -> Mapping[str, int | None]:
        told = parse_json("the hub's answer", self.get(self._address("/files?"), 32 * _MIB))
        data = told.get("Data")
        return _listed(data.get("Files") if isinstance(data, dict) else None, "Path", "Size")


def _listed(files: object, name_key: str, size_key: str) -> dict[str, int | None]:
    """Files of the top folder from a hub's listing."""
    found: dict[str, int | None] = {}
    for file in files[:_MOST_FILES] if isinstance(files, list) else ():
        name, size = (file.get(name_key), file.get(size_key)) if isinstance(file, dict) else (None, None)
        if isinstance(name, str) and name and "/" not in name:
            found[name] = size if type(size) is int and size >= 0 else None
    return found
