"""Takes one revision of a git repository into a folder: fetch_git.py REPOSITORY REVISION FOLDER [--submodule PATH]...

Run again it goes on where it was: a clone that is there is kept, a half-done one is finished. A full commit is fetched
alone where the server allows that, else with all history; a short one always needs the history. Needs only git.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

_FULL = re.compile(r"[0-9a-f]{40}")
_SHORT = re.compile(r"[0-9a-f]{7,39}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repository")
    parser.add_argument("revision")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--submodule", action="append", default=[])
    given = parser.parse_args()
    os.environ["GIT_TERMINAL_PROMPT"] = "0"  # a private repository fails with words instead of waiting for a password
    os.environ.setdefault("GIT_ASKPASS", "true")
    # TensorRT-LLM's libraries are gigabytes in Git LFS, and scripts need none of them; where they are needed, a step of
    # its own brings them.
    os.environ["GIT_LFS_SKIP_SMUDGE"] = "1"
    if shutil.which("git") is None:
        print("slipway: git is not installed", file=sys.stderr)
        return 127
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / ".git").exists():
        run(folder, "init", "--quiet")
    known = subprocess.run(("git", "remote"), cwd=folder, capture_output=True, text=True, check=True).stdout.split()
    run(folder, "remote", "set-url" if "origin" in known else "add", "origin", given.repository)
    commit = fetch(folder, given.revision)
    run(folder, "checkout", "--quiet", "--force", "--detach", commit)
    for path in given.submodule:
        if listed(folder, path):
            run(folder, "submodule", "update", "--init", "--progress", "--depth", "1", path)
    print(f"{given.repository} at {head(folder)}", flush=True)
    return 0


def fetch(folder: Path, revision: str) -> str:
    """Fetches the revision and returns its commit. Raises SystemExit with git's status where it is not there."""
    if _FULL.fullmatch(revision) and has(folder, revision):
        return revision
    if not _SHORT.fullmatch(revision):
        alone = ("fetch", "--progress", "--depth", "1", "origin", revision)
        if attempt(folder, *alone) == 0:
            return resolved(folder, "FETCH_HEAD")
    elif (there := complete(folder, revision)) is not None:
        return there
    run(folder, "fetch", "--progress", "--tags", *unshallow(folder), "origin", "+refs/heads/*:refs/remotes/origin/*")
    for name in (f"refs/remotes/origin/{revision}", f"refs/tags/{revision}", revision):
        if (found := complete(folder, name)) is not None:
            return found
    print(f"slipway: the repository has no revision {revision}", file=sys.stderr)
    raise SystemExit(1)


def run(folder: Path, *words: str) -> None:
    """Runs git and ends with its status where it fails."""
    status = attempt(folder, *words)
    if status:
        raise SystemExit(status)


def attempt(folder: Path, *words: str) -> int:
    print("+ git " + " ".join(words), flush=True)
    return subprocess.run(("git", *words), cwd=folder, check=False).returncode


def complete(folder: Path, name: str) -> str | None:
    """The whole commit that a name stands for, if it is there."""
    told = subprocess.run(
        ("git", "rev-parse", "--verify", "--quiet", name + "^{commit}"), cwd=folder, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    return told.stdout.strip() or None


def resolved(folder: Path, name: str) -> str:
    commit = complete(folder, name)
    if commit is None:
        raise SystemExit(f"slipway: {name} is no commit")
    return commit


def has(folder: Path, commit: str) -> bool:
    return complete(folder, commit) is not None


def head(folder: Path) -> str:
    return resolved(folder, "HEAD")


def unshallow(folder: Path) -> tuple[str, ...]:
    return ("--unshallow",) if (folder / ".git" / "shallow").exists() else ()


def listed(folder: Path, path: str) -> bool:
    """Whether the checkout has a submodule there."""
    told = subprocess.run(
        ("git", "ls-files", "--stage", "--", path), cwd=folder, capture_output=True, text=True, check=True
    ).stdout
    return told.startswith("160000 ")


if __name__ == "__main__":
    sys.exit(main())
