"""Gets the real parts that the tests use: the embedded runtime, a browser, fonts with Chinese characters.

With root and apt they are installed; without, the tests that need them are skipped by name with the reason. In CI
(CI=true) a missing part is an error.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = {"chromium": "chromium", "fc-list": "fontconfig"}
FONTS = ("fonts-noto-cjk", "/usr/share/fonts/opentype/noto")


def main() -> int:
    """Installs what is missing; 0 where the tests can begin."""
    missing = [package for program, package in PACKAGES.items() if shutil.which(program) is None]
    if not Path(FONTS[1]).exists():
        missing.append(FONTS[0])
    if missing and hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"Installing for the tests: {' '.join(missing)}", flush=True)
        env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        quiet = {"env": env, "stdout": subprocess.DEVNULL}
        subprocess.run(("apt-get", "update", "-q"), check=False, **quiet)
        subprocess.run(("apt-get", "install", "-qy", "--no-install-recommends", *missing), check=False, **quiet)
    home = os.environ.get("SLIPWAY_TEST_HOME") or str(Path.home() / ".cache" / "slipway-test")
    for kept in ("slipway.db", "slipway.db-wal", "slipway.db-shm"):
        (Path(home) / kept).unlink(missing_ok=True)
    shutil.rmtree(Path(home) / "runs", ignore_errors=True)
    done = subprocess.run((sys.executable, "-m", "app", "--home", home, "setup"), check=False)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
