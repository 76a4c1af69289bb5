"""Runs the tests: two lanes at once, then those that measure, alone. Takes pytest's options.

While the real parts are got (test_parts.py), the tests that need none of them run. Then deployments of what stands for
upstream's images run beside all others: both mostly wait for one program to start, and they share nothing. Which test
is in which lane: tests/conftest.py. A test that fails beside others is asked once more with nothing beside it. Each
lane is a pytest of its own; at the end stands one sum, and one file where `--junitxml` asks for it. On one core the
lanes come one after the other.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
PARTS = str(ROOT / "scripts" / "test_parts.py")
CLEARING_S = 60.0
WIDTH = 80
MOST_AGAIN = 12  # more is no matter of what ran beside
NONE_COLLECTED = 5  # pytest's exit status where nothing was chosen


class Lanes:
    """The lanes that run, what they ended with, and their results in `folder`."""

    def __init__(self, options: list[str], folder: Path) -> None:
        self._options = options
        self._folder = folder
        self._children: list[subprocess.Popen[str]] = []
        self._print = threading.Lock()
        self._superseded: set[str] = set()  # lanes whose failures were run again
        self.statuses: dict[str, int] = {}

    def run(self, *names: str) -> None:
        """Runs lanes one after the other."""
        for name in names:
            results = f"--junitxml={self._folder / name}.xml"
            command = (sys.executable, "-m", "pytest", *self._options, f"--lane={name}", results)
            self.statuses[name] = self.show(name, command)

    def run_again(self) -> None:
        """Runs the few tests that failed with another lane beside them once more with nothing beside them, as pytest by
        itself would run them; that is their result. Both are shown."""
        beside = {name for name, status in self.statuses.items() if status == 1 and name != "alone"}
        failed = [f"{_file(case)}::{case.get('name')}" for name in beside for case in self._bad(name)]
        if 0 < len(failed) <= MOST_AGAIN:
            results = f"--junitxml={self._folder / 'again.xml'}"
            status = self.show("again", (sys.executable, "-m", "pytest", *self._options, *failed, results))
            if status in (0, 1):
                self.statuses |= dict.fromkeys(beside, 0) | {"again": status}
                self._superseded = beside

    def _bad(self, name: str) -> list[ElementTree.Element]:
        path = self._folder / f"{name}.xml"
        cases = ElementTree.parse(path).iter("testcase") if path.exists() else ()  # noqa: S314  pytest wrote it
        return [case for case in cases if _failed(case)]

    def show(self, name: str, command: tuple[str, ...]) -> int:
        """Runs a command, each of its lines shown behind the name; its exit status."""
        # Hundreds of programs that the tests start would otherwise each compile the same modules anew.
        env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        child = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._children.append(child)
        for line in child.stdout or ():
            with self._print:
                print(f"{name:8} | {line}", end="", flush=True)
        return child.wait()

    def end(self) -> None:
        """Lets what still runs clear away after Ctrl-C, which reached it too; what does not end is asked once more."""
        for child in self._children:
            try:
                child.wait(CLEARING_S)
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGINT)
                child.wait()

    def results(self) -> ElementTree.Element:
        """The results of all lanes, as one file of JUnit's."""
        whole = ElementTree.Element("testsuites")
        for name in self.statuses:
            path = self._folder / f"{name}.xml"
            if path.exists():
                for suite in ElementTree.parse(path).getroot():  # noqa: S314  pytest wrote it just now
                    suite.set("name", name)
                    if name in self._superseded:
                        _without_failures(suite)
                    whole.append(suite)
        return whole


def main(options: list[str]) -> int:
    """Runs everything; 0 where every test passed."""
    wanted = [option.partition("=")[2] for option in options if option.startswith("--junitxml=")]
    options = [option for option in options if not option.startswith("--junitxml=")]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        lanes = Lanes(options, Path(folder))
        parts: list[int] = []
        there = threading.Event()

        def first() -> None:
            try:
                parts.append(lanes.show("parts", (sys.executable, PARTS)))
            finally:
                there.set()
            if parts == [0]:
                lanes.run("host")

        def second() -> None:
            lanes.run("plain")
            there.wait()
            if parts == [0]:
                lanes.run("upstream")

        try:
            _at_once(first, second)
            if parts == [0]:
                lanes.run("alone")
                lanes.run_again()
        finally:
            lanes.end()
            subprocess.run((sys.executable, PARTS, "--end"), cwd=ROOT, check=False)
        results = lanes.results()
        for path in wanted:
            ElementTree.ElementTree(results).write(path, encoding="utf-8", xml_declaration=True)
    return _sum(results, [*parts, *lanes.statuses.values()], time.monotonic() - began)


def _at_once(*works: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
        if (os.cpu_count() or 1) == 1:
            thread.join()
    for thread in threads:
        thread.join()


def _failed(case: ElementTree.Element) -> bool:
    return bool({"failure", "error"} & {part.tag for part in case})


def _file(case: ElementTree.Element) -> str:
    return f"{str(case.get('classname')).replace('.', '/')}.py"


def _without_failures(suite: ElementTree.Element) -> None:
    for case in list(suite):
        if case.tag == "testcase" and _failed(case):
            suite.remove(case)
    suite.set("tests", str(len(suite.findall("testcase"))))
    suite.set("failures", "0")
    suite.set("errors", "0")


def _sum(results: ElementTree.Element, statuses: list[int], seconds: float) -> int:
    """Says what failed and how many passed, in the form of pytest's own last lines; the exit status of the whole."""
    count = {
        word: sum(int(suite.get(word, 0)) for suite in results) for word in ("tests", "failures", "errors", "skipped")
    }
    bad = [case for case in results.iter("testcase") if _failed(case)]
    if bad:
        print(" short test summary info ".center(WIDTH, "="))
    for case in bad:
        word = "FAILED" if case.find("failure") is not None else "ERROR"
        print(f"{word} {_file(case)}::{case.get('name')}")
    passed = count["tests"] - count["failures"] - count["errors"] - count["skipped"]
    counted = (
        (count["failures"], "failed"),
        (passed, "passed"),
        (count["skipped"], "skipped"),
        (count["errors"], "error"),
    )
    told = ", ".join(f"{number} {word}" for number, word in counted if number) or "no tests ran"
    took = f"{seconds:.2f}s ({timedelta(seconds=int(seconds))})"
    print(f" {told} in {took} ".center(WIDTH, "="), flush=True)
    ended = [status for status in statuses if status not in (0, NONE_COLLECTED)]
    return ended[0] if ended else (0 if count["tests"] else NONE_COLLECTED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
