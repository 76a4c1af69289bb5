"""Lays the Triton server out inside the embedded runtime. Standard library only; run by the runtime's own interpreter.

The nvidia-pytriton wheel holds `tritonserver`, the Python backend, and one stub process for each Python version. Triton
wants the backend and the stub of this interpreter side by side, the stub wants this interpreter's own libpython and
finds the interpreter through PATH. This makes, inside the runtime:

    backends/python/            the wheel's backend and the one stub that fits
    bin/slipway-tritonserver    starts the real tritonserver with PATH and LD_LIBRARY_PATH as it needs them
    tritonserver.json           where all that lies

    python lay_out.py           do it; doing it again changes nothing
    python lay_out.py --check   only say whether this machine and this interpreter can carry it

Exit status: 0 done, 1 cannot be (the reason, in English and Chinese, on standard error).
"""

from __future__ import annotations

import argparse
import ctypes.util
import importlib.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

WHEEL = "nvidia-pytriton"
SERVER_VERSION = "2.51.0"  # what `tritonserver` of nvidia-pytriton 0.7.0 answers at /v2
PYTHONS = ((3, 11), (3, 12))  # a stub and a numpy 1.26 wheel exist for both; Slipway itself needs 3.11
GLIBC = (2, 35)  # highest GLIBC_ symbol version in the wheel's nvidia_pytriton.libs


class CannotBe(Exception):
    """This machine or interpreter cannot carry the runtime. Holds the reason in English and Chinese."""

    def __init__(self, en: str, zh: str) -> None:
        super().__init__(f"{en}\n{zh}")


def check_machine() -> None:
    """Raises CannotBe unless this machine and this interpreter can carry the runtime."""
    if sys.platform != "linux":
        raise CannotBe(
            f"The embedded Triton server runs on Linux only, and this is {platform.system()}. "
            "Use a Linux machine, or deploy with Docker.",
            f"内嵌的 Triton 服务器只能在 Linux 上运行，当前系统是 {platform.system()}。"
            "请换用 Linux，或使用 Docker 部署。",
        )
    if platform.machine() not in ("x86_64", "AMD64"):
        raise CannotBe(
            f"The embedded Triton server is built for x86-64, and this machine is {platform.machine()}. "
            "Deploy with Docker instead.",
            f"内嵌的 Triton 服务器只有 x86-64 版本，当前机器是 {platform.machine()}。请改用 Docker 部署。",
        )
    name, version = platform.libc_ver()
    if name != "glibc" or tuple(int(part) for part in version.split(".")[:2]) < GLIBC:
        wanted = ".".join(map(str, GLIBC))
        raise CannotBe(
            f"The embedded Triton server needs glibc {wanted} or newer (Ubuntu 22.04, Debian 12), "
            f"and this machine has {name or 'another C library'} {version}.",
            f"内嵌的 Triton 服务器需要 glibc {wanted} 或更新版本（Ubuntu 22.04、Debian 12 起），"
            f"当前是 {name or '其他 C 库'} {version}。",
        )
    if sys.implementation.name != "cpython" or sys.version_info[:2] not in PYTHONS:
        here = f"{platform.python_implementation()} {platform.python_version()}"
        raise CannotBe(
            f"The embedded runtime needs CPython 3.11 or 3.12 (Triton's stub and numpy 1 exist for these), "
            f"and this is {here}. Install one of them and name it: make clean run PYTHON=python3.12",
            f"内嵌运行环境需要 CPython 3.11 或 3.12（Triton 的 stub 与 numpy 1 只支持它们），当前是 {here}。"
            "请安装其中之一并指定：make clean run PYTHON=python3.12",
        )
    libpython_folder()


def libpython_folder() -> str | None:
    """Folder of this interpreter's own libpython; None where the system's loader finds it. Raises CannotBe."""
    soname = "libpython{}.{}.so.1.0".format(*sys.version_info[:2])
    lib = sysconfig.get_config_var("LIBDIR") or ""
    for folder in (lib, str(Path(sys.base_prefix, "lib")), str(Path(lib, sysconfig.get_config_var("MULTIARCH") or ""))):
        if folder and Path(folder, soname).is_file():
            return folder
    if ctypes.util.find_library("python{}.{}".format(*sys.version_info[:2])):
        return None
    package = "libpython{}.{}".format(*sys.version_info[:2])
    raise CannotBe(
        f"{soname} is not on this machine; Triton's Python backend is linked with it. "
        f"Install it (Debian, Ubuntu: apt install {package}), or use a Python that brings its own.",
        f"本机缺少 {soname}，Triton 的 Python 后端需要它。请安装（Debian、Ubuntu：apt install {package}），"
        "或使用自带该库的 Python。",
    )


def lay_out(runtime: Path) -> dict[str, str]:
    """Makes the layout inside the runtime and returns what tritonserver.json holds. Raises CannotBe."""
    found = importlib.util.find_spec("pytriton")
    if found is None or not found.submodule_search_locations:
        raise CannotBe(
            f"{WHEEL} is not installed in {runtime}. Install server.lock there first.",
            f"{runtime} 中没有安装 {WHEEL}。请先在其中安装 server.lock。",
        )
    package = Path(next(iter(found.submodule_search_locations)))
    server = package / "tritonserver" / "bin" / "tritonserver"
    stub = package / "tritonserver" / "python_backend_stubs" / "{}.{}".format(*sys.version_info[:2])
    libraries = package.parent / "nvidia_pytriton.libs"
    for path in (server, stub, libraries):
        if not path.exists():
            raise CannotBe(
                f"{path} is missing: the {WHEEL} wheel is damaged or another version. Install server.lock again.",
                f"缺少 {path}：{WHEEL} 安装包已损坏或版本不符。请重新安装 server.lock。",
            )
    folders = [folder for folder in (libpython_folder(), str(libraries)) if folder]
    backends = runtime / "backends"
    for source in (*(package / "tritonserver" / "backends" / "python").iterdir(), *stub.iterdir()):
        if source.is_file():
            _copy(source, backends / "python" / source.name)
    for program in (server, backends / "python" / "triton_python_backend_stub"):
        program.chmod(program.stat().st_mode | 0o111)
    launcher = runtime / "bin" / "slipway-tritonserver"
    library_path = ":".join(folders)
    _write(launcher, _launcher(runtime, server, library_path), executable=True)
    facts = {
        "server": str(server),
        "launcher": str(launcher),
        "backend_directory": str(backends),
        "library_path": library_path,
        "path_prefix": str(runtime / "bin"),
        "server_version": SERVER_VERSION,
        "wheel": f"{WHEEL} {metadata.version(WHEEL)}",
        "python": platform.python_version(),
    }
    _prove(server, backends, library_path, runtime)
    _write(runtime / "tritonserver.json", json.dumps(facts, indent=2) + "\n")
    return facts


def _launcher(runtime: Path, server: Path, library_path: str) -> str:
    """A shell wrapper that becomes tritonserver. The stub takes the first python3 on PATH for its interpreter; packages
    of another interpreter (PYTHONPATH, the person's own site) must not reach it, numpy 2 above all."""
    return (
        "#!/bin/sh\n"
        "# Written by lay_out.py. Starts Triton with the embedded runtime's interpreter and libraries.\n"
        f'PATH={shlex.quote(str(runtime / "bin"))}:"$PATH"\n'
        f"LD_LIBRARY_PATH={shlex.quote(library_path)}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\n"
        "PYTHONNOUSERSITE=1\n"
        "unset PYTHONHOME PYTHONPATH\n"
        "export PATH LD_LIBRARY_PATH PYTHONNOUSERSITE\n"
        f'exec {shlex.quote(str(server))} "$@"\n'
    )


def _copy(source: Path, target: Path) -> None:
    if not target.is_file() or target.read_bytes() != source.read_bytes():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        shutil.copyfile(source, partial)
        partial.replace(target)


def _write(target: Path, text: str, *, executable: bool = False) -> None:
    if not target.is_file() or target.read_text() != text:
        partial = target.with_name(target.name + ".partial")
        partial.write_text(text)
        partial.replace(target)
    if executable:
        target.chmod(0o755)


def _prove(server: Path, backends: Path, library_path: str, runtime: Path) -> None:
    """Starts both programs once: a loader that misses a library ends with 127 and names it. Raises CannotBe."""
    environment = os.environ | {"LD_LIBRARY_PATH": library_path, "PATH": f"{runtime / 'bin'}:{os.environ['PATH']}"}
    for command in ([str(server), "--help"], [str(backends / "python" / "triton_python_backend_stub")]):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        if done.returncode == 127 or done.returncode < 0:
            raise CannotBe(
                f"{command[0]} does not start: {done.stderr.strip()[-400:]}",
                f"{command[0]} 无法启动：{done.stderr.strip()[-400:]}",
            )


def main() -> int:
    """Reads the command line; see the module's words."""
    parser = argparse.ArgumentParser(description="Lay the Triton server out inside the embedded runtime.")
    parser.add_argument("--check", action="store_true", help="only say whether this machine can carry the runtime")
    parser.add_argument("--json", action="store_true", help="print what tritonserver.json holds")
    arguments = parser.parse_args()
    try:
        check_machine()
        if arguments.check:
            return 0
        facts = lay_out(Path(sys.prefix))
    except CannotBe as reason:
        print(reason, file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(facts, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
