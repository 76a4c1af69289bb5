"""Says clearly what this Python cannot carry. Standard library only; runs on any Python 3.

Prints `--demo` where the embedded server, and so the demo, can run. The panel and the engines in Docker need less.
"""

import sys

PYTHONS = ((3, 11), (3, 12))  # as assets/runtime/lay_out.py has them

here = ".".join(map(str, sys.version_info[:3]))
if sys.version_info < (3, 11):  # noqa: UP036  the very question
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
if sys.version_info[:2] in PYTHONS:
    print("--demo")
else:
    print(
        f"Slipway's embedded server, and so the demo, needs Python 3.11 or 3.12; this is {here}. The panel and the "
        "engines in Docker work. For the embedded server install one of them, then: make clean run PYTHON=python3.12\n"
        f"Slipway 的内嵌服务器（包括演示部署）需要 Python 3.11 或 3.12，当前是 {here}。面板与 Docker 中的引擎仍可使用。"
        "如需内嵌服务器，请安装其中之一，然后运行：make clean run PYTHON=python3.12",
        file=sys.stderr,
    )
