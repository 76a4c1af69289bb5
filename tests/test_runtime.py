"""The embedded runtime: PyTorch's build is the one that is wanted, what is gone is made again, the words are true."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from app.jobs import NOWHERE, Stamps, to_do
from backends import recipes
from backends.memory import costs
from backends.spec import Hardware, ModelSource, Sources, Spec
from backends.steps import Step, fill_step
from backends.targets.base import there
from backends.targets.local import LocalTarget
from backends.text import Text
from backends.transformers.recipe import PYTHONS, TORCH, recipe
from tests.test_local_target import RUN, do
from tests.test_transformers import DEMO, H200, LAPTOP

ROOT = Path(__file__).resolve().parent.parent
FITS = ROOT / "scripts" / "python_fits.py"
HIDDEN = LAPTOP.model_copy(update={"unknown": {"gpus": Text(en="NVML hung.", zh="NVML 无响应。")}})
MACHINES = {"none": LAPTOP, "some": H200, "hidden": HIDDEN}


def wheel(folder: Path, name: str, version: str, files: dict[str, str], needs: str = "") -> None:
    """A wheel that pip installs."""
    info = f"{name}-{version}.dist-info"
    told = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as made:
        for path, text in told.items():
            made.writestr(path, text)
        made.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in (*told, f"{info}/RECORD")))


@pytest.fixture
def pip(home: Path, tmp_path: Path) -> LocalTarget:
    """A target whose runtime has pip and no package, and finds small stand-ins of both builds of PyTorch."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel(wheels, "torch", f"{TORCH}+cpu", {"torch/version.py": "cuda = None\n"})
    gpu = {"torch/version.py": "cuda = '13.0'\n", "torch/lib/libtorch_cuda.so": ""}
    wheel(wheels, "torch", TORCH, gpu, "Requires-Dist: nvidia_stand_in\n")
    wheel(wheels, "nvidia_stand_in", "1", {"nvidia_stand_in.py": ""})
    venv.create(home / "runtime", symlinks=True)
    found = importlib.util.find_spec("pip")
    assert found is not None and found.origin is not None
    (site(home) / "pip").symlink_to(Path(found.origin).parent)
    (home / "runs" / RUN / "logs").mkdir(parents=True)
    own = {name: value for name, value in os.environ.items() if not name.upper().startswith("PIP_")}
    told = own | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}
    return LocalTarget(home, ROOT / "assets", sys.executable, told, lambda *_: iter(()))


def torch(machine: Hardware) -> Step:
    return recipes.setup(machine, Sources()).step("runtime-torch")


def filled(local: LocalTarget, step: Step) -> Step:
    return fill_step(step, local.places(RUN, NOWHERE, "127.0.0.1"))


def site(home: Path) -> Path:
    [found] = (home / "runtime" / "lib").glob("python*/site-packages")
    return found


def test_the_build_of_pytorch_that_is_wanted_is_the_one_that_is_there_afterwards(pip: LocalTarget, home: Path) -> None:
    def install(hardware: Hardware) -> tuple[str, list[str]]:
        """What is there afterwards, and which machines would find it done."""
        do(pip, home, torch(hardware))
        cuda = (site(home) / "torch" / "version.py").read_text()
        return cuda, [name for name, machine in MACHINES.items() if pip.has(filled(pip, torch(machine)))]

    cpu, cuda = ("cuda = None\n", ["none", "hidden"]), ("cuda = '13.0'\n", ["some", "hidden"])
    assert install(HIDDEN) == cpu
    assert install(H200) == cuda
    assert (site(home) / "nvidia_stand_in.py").exists()
    assert install(HIDDEN) == cuda
    assert install(LAPTOP) == cpu


def test_what_is_said_of_gpus_is_true_where_nobody_could_look() -> None:
    spec = Spec(model=ModelSource(kind="demo"))
    words = [*(note.en for note in recipe(spec, HIDDEN, DEMO, Sources()).notes), torch(HIDDEN).why.en]
    assert "NVML hung." in words
    assert not any("no NVIDIA GPU" in word or "No NVIDIA GPU" in word for word in words)


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_a_runtime_that_was_removed_is_made_again_though_its_stamps_are_there(home: Path, machine: Hardware) -> None:
    made = recipes.setup(machine, Sources())
    local = LocalTarget(home, ROOT / "assets", sys.executable, {}, lambda *_: iter(()))
    steps = [filled(local, step) for step in made.steps]
    stamps = Stamps(home, ROOT / "assets")
    for step in steps:
        stamps.add(step, stamps.prints(steps)[step.id], "run")
        for output in step.outputs:
            path = Path(output.replace("*", "3"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    assert to_do(made, local, home, ROOT / "assets") == ()
    shutil.rmtree(home / "runtime")
    left = [step.id for step in to_do(made, local, home, ROOT / "assets")]
    assert left == [f"runtime-{part}" for part in ("venv", "packages", "server", "torch", "layout")]


@pytest.mark.parametrize(("name", "found"), [("[1] a*b", True), ("[1] a", False), ("1 ab", False)])
def test_only_a_star_stands_for_any_name(tmp_path: Path, name: str, found: bool) -> None:
    (tmp_path / name / "python3.12").mkdir(parents=True)
    assert there(f"{tmp_path}/[1] a*b/python*") is found


@pytest.mark.parametrize(("machine", "key"), [(LAPTOP, "runtime_cpu_mib"), (H200, "runtime_mib")])
def test_the_plan_and_the_card_tell_the_same_disk(machine: Hardware, key: str) -> None:
    steps = recipes.setup(machine, Sources()).steps
    assert sum(step.forecast.disk_mib or 0 for step in steps) == costs()["host"][key]


def fits(version: tuple[int, int, int]) -> subprocess.CompletedProcess[str]:
    """What `make` hears of a Python of that version."""
    code = f"import runpy, sys; sys.version_info = {version}; runpy.run_path({str(FITS)!r}, run_name='__main__')"
    return subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("version", "status", "demo", "said"),
    [
        ((3, 10, 9), 1, "", "needs Python 3.11 or newer"),
        ((3, 11, 0), 0, "--demo\n", ""),
        ((3, 12, 4), 0, "--demo\n", ""),
        ((3, 13, 0), 0, "", "needs Python 3.11 or 3.12"),
    ],
)
def test_a_python_that_cannot_carry_the_embedded_server_is_named(version, status, demo, said) -> None:
    done = fits(version)
    assert (done.returncode, done.stdout) == (status, demo)
    assert said in done.stderr
    assert bool(re.search(r"[\u4e00-\u9fff]", done.stderr)) == bool(said)


def test_everybody_names_the_same_pythons() -> None:
    told = [runpy.run_path(str(path))["PYTHONS"] for path in (FITS, ROOT / "assets" / "runtime" / "lay_out.py")]
    assert told == [tuple(tuple(int(part) for part in one.split(".")) for one in PYTHONS)] * 2
