"""Runs the tests: two lanes at once, then those that measure, alone. Takes pytest's options.

While the real parts are got (test_parts.py), the tests that need none of them run. Then deployments of what stands for
upstream's images run beside all others: both mostly wait for one program to start, and they share nothing. Which test
is in which lane: tests/conftest.py. A test that fails beside others is asked once more with nothing beside it, but for
the engine's, whose failures no load excuses; what passes then is told by name, with how it failed first. Each lane is a
pytest of its own; at the end stands one sum, and one file where `--junitxml` asks for it. On one core the lanes come
one after the other.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Container
from datetime import timedelta
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
PARTS = str(ROOT / "scripts" / "test_parts.py")
CLEARING_S = 60.0
WIDTH = 80
MOST_AGAIN = 12  # more is no matter of what ran beside
NEVER_AGAIN = "tests/engine/"  # a wrong token, or a server that ends, is never the machine's load
DIED = "the server died"  # as the fixtures of tests/live/conftest.py say it
CRASHED = (DIED, "Signal (6) received", "Signal (11) received")  # the latter as tritonserver says it in its log
FIRST = "failed_first"  # the property of a test that passed when it was asked again: its lane, and what it said there
NONE_COLLECTED = 5  # pytest's exit status where nothing was chosen
LOST = 3  # as pytest's own for an error of its own: stands until a lane has told how it ended

First = dict[str, tuple[str, list[ElementTree.Element]]]
"""Of each test that was run again: the lane in which it failed first, and its failures there."""


class Lanes:
    """The lanes that run, what they ended with, and their results in `folder`."""

    def __init__(self, options: list[str], folder: Path) -> None:
        self._options = options
        self._folder = folder
        self._children: list[subprocess.Popen[str]] = []
        self._print = threading.Lock()
        self._first: First = {}
        self.statuses: dict[str, int] = {}

    def run(self, *names: str) -> None:
        """Runs lanes one after the other."""
        for name in names:
            results = f"--junitxml={self._folder / name}.xml"
            command = (sys.executable, "-m", "pytest", *self._options, f"--lane={name}", results)
            self.statuses[name] = LOST
            self.statuses[name] = self.show(name, command)

    def run_again(self) -> None:
        """Runs the few tests that failed with another lane beside them once more with nothing beside them, as pytest by
        itself would run them; that is their result. Both are shown, and the first failure stays told."""
        beside = [name for name, status in self.statuses.items() if status == 1 and name != "alone"]
        failed = {name: self._failures(name) for name in beside}
        asked = [test for tests in failed.values() for test, bad in tests.items() if _may_be_load(test, bad)]
        if not asked or sum(map(_causes, failed.values())) > MOST_AGAIN:
            return
        results = f"--junitxml={self._folder / 'again.xml'}"
        status = self.show("again", (sys.executable, "-m", "pytest", *self._options, *asked, results))
        if status not in (0, 1):
            return
        self.statuses["again"] = status
        told = {_test(case) for case in self._cases("again") if case.find("skipped") is None}
        for name, tests in failed.items():
            self._first |= {test: (name, bad) for test, bad in tests.items() if test in asked and test in told}
            if tests and tests.keys() <= self._first.keys():
                self.statuses[name] = 0

    def _cases(self, name: str) -> list[ElementTree.Element]:
        path = self._folder / f"{name}.xml"
        return list(ElementTree.parse(path).iter("testcase")) if path.exists() else []  # noqa: S314  pytest wrote it

    def _failures(self, name: str) -> dict[str, list[ElementTree.Element]]:
        """What went wrong in each test of a lane that did not pass: itself, what it needed, clearing up."""
        found: dict[str, list[ElementTree.Element]] = {}
        for case in self._cases(name):
            if _failed(case):
                found.setdefault(_test(case), []).extend(_bad(case))
        return found

    def show(self, name: str, command: tuple[str, ...]) -> int:
        """Runs a command, each of its lines shown behind the name; its exit status."""
        # Hundreds of programs that the tests start would otherwise each compile the same modules anew.
        env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
        child = subprocess.Popen(command, cwd=ROOT, env=env, **out)
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
                    if name == "again":
                        _with_first_failures(suite, self._first)
                    else:
                        _without(suite, self._first)
                    whole.append(suite)
        return whole


def main(options: list[str]) -> int:
    """Runs everything; 0 where every test passed."""
    wanted = [option.partition("=")[2] for option in options if option.startswith("--junitxml=")]
    options = [option for option in options if not option.startswith("--junitxml=")]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        lanes = Lanes(options, Path(folder))
        parts = [LOST]
        there = threading.Event()

        def first() -> None:
            try:
                parts[0] = lanes.show("parts", (sys.executable, PARTS))
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


def _bad(case: ElementTree.Element) -> list[ElementTree.Element]:
    return [part for part in case if part.tag in ("failure", "error")]


def _causes(failed: dict[str, list[ElementTree.Element]]) -> int:
    """How many things went wrong: what many tests share fails each of them with the same words before it begins."""
    alike = {one.get("message") for bad in failed.values() for one in bad if one.tag == "error"}
    return len(alike) + sum(any(one.tag == "failure" for one in bad) for bad in failed.values())


def _failed(case: ElementTree.Element) -> bool:
    return bool(_bad(case))


def _test(case: ElementTree.Element) -> str:
    """A test's name as pytest takes it."""
    return f"{str(case.get('classname')).replace('.', '/')}.py::{case.get('name')}"


def _words(bad: ElementTree.Element) -> str:
    """What a failure says, in one line."""
    said = str(bad.get("message") or bad.text or "").strip()
    return said.splitlines()[0][:300] if said else bad.tag


def _may_be_load(test: str, bad: list[ElementTree.Element]) -> bool:
    """Whether what ran beside a test can be why it failed."""
    said = "".join(f"{one.get('message')}{one.text}" for one in bad)
    return not test.startswith(NEVER_AGAIN) and not any(words in said for words in CRASHED)


def _without(suite: ElementTree.Element, again: Container[str]) -> None:
    """Takes the failures out of a lane whose tests were run again."""
    left = [case for case in suite.findall("testcase") if _failed(case) and _test(case) in again]
    for case in left:
        suite.remove(case)
    if left:
        cases = suite.findall("testcase")
        suite.set("tests", str(len(cases)))
        for word in ("failure", "error"):
            suite.set(f"{word}s", str(sum(case.find(word) is not None for case in cases)))


def _with_first_failures(suite: ElementTree.Element, first: First) -> None:
    """Lets each test that passed when it was asked again tell how it failed at first."""
    for case in suite.findall("testcase"):
        if _test(case) in first and not _failed(case):
            lane, bad = first[_test(case)]
            properties = ElementTree.Element("properties")
            ElementTree.SubElement(properties, "property", name=FIRST, value=f"{lane}: {_words(bad[0])}")
            case.insert(0, properties)
            told = "\n\n".join(f"{one.get('message') or ''}\n{one.text or ''}".strip() for one in bad)
            ElementTree.SubElement(case, "system-out").text = f"Failed first, beside others, in lane {lane}:\n{told}"


def _sum(results: ElementTree.Element, statuses: list[int], seconds: float) -> int:
    """Says what failed, at first or for good, and how many passed, in the form of pytest's own last lines; the exit
    status of the whole."""
    count = {
        word: sum(int(suite.get(word, 0)) for suite in results) for word in ("tests", "failures", "errors", "skipped")
    }
    first = f"properties/property[@name='{FIRST}']"
    again = [(_test(case), told.get("value")) for case in results.iter("testcase") for told in case.findall(first)]
    if again:
        print(" failed beside others, passed alone ".center(WIDTH, "="))
    for test, words in again:
        print(f"AGAIN {test} - {words}")
    bad = [case for case in results.iter("testcase") if _failed(case)]
    if bad:
        print(" short test summary info ".center(WIDTH, "="))
    for case in bad:
        word = "FAILED" if case.find("failure") is not None else "ERROR"
        print(f"{word} {_test(case)} - {_words(_bad(case)[0])}")
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
    sys.stdout.reconfigure(errors="replace")
    sys.exit(main(sys.argv[1:]))
