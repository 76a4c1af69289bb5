"""Says clearly where this Python cannot carry Slipway. Standard library only; runs on any Python 3."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  the very question
    here = ".".join(map(str, sys.version_info[:3]))
    sys.exit(
        f"Slipway needs Python 3.11 or newer; this is {here}. Name another one: make run PYTHON=python3.12\n"
        f"Slipway 需要 Python 3.11 或更新版本，当前是 {here}。请指定：make run PYTHON=python3.12"
    )
try:
    import ensurepip  # noqa: F401
    import venv  # noqa: F401
except ImportError:
    sys.exit(
        "This Python cannot make environments. Install its venv package (Debian, Ubuntu: apt install python3-venv).\n"
        "此 Python 无法创建虚拟环境，请安装其 venv 包（Debian、Ubuntu：apt install python3-venv）。"
    )
