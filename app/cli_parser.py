"""Every command and option of `slipway`, with its words. Pure: what a command does is in `app.cli`."""

from __future__ import annotations

from app import cli_kept, cli_keys, cli_shelf, cli_talks
from app.arguments import Parser, whole
from app.cli_kept import RUN
from backends.text import LANGUAGES, Language, Text

LIMIT = whole(1, 10_000)  # rows of a list
_FOLLOW = Text(en="show what happens until it serves", zh="显示进展，直到开始服务")
_ENGINE = Text(en="only this engine", zh="只看该引擎")
_HARDWARE = Text(
    en="judge for the machine of that JSON (of `detect --json`)", zh="按该 JSON 描述的机器判断（来自 detect --json）"
)


def parser(language: Language) -> Parser:
    """The whole command line; `command` of what it reads names the command."""
    words = Text(en="Launches language models on NVIDIA Triton.", zh="在 NVIDIA Triton 上启动大语言模型。")
    whole_line = Parser(language=language, prog="slipway", description=words.of(language))
    whole_line.takes("--home", words=Text(en="data folder (SLIPWAY_HOME)", zh="数据目录（SLIPWAY_HOME）"))
    words = Text(en="language of the words (SLIPWAY_LANGUAGE)", zh="界面语言（SLIPWAY_LANGUAGE）")
    whole_line.takes("--language", choices=LANGUAGES, words=words)
    commands = whole_line.add_subparsers(metavar="COMMAND", dest="command", required=True)

    def bare(name: str, words: Text) -> Parser:
        return commands.add_parser(name, language=language, help=words.of(language), description=words.of(language))

    def command(name: str, words: Text) -> Parser:
        one = bare(name, words)
        one.takes("--json", action="store_true", words=Text(en="print JSON", zh="输出 JSON"))
        return one

    _panel(bare("panel", Text(en="start the panel", zh="启动面板")))
    words = Text(en="install the embedded runtime without starting anything", zh="安装内嵌运行环境，不启动任何服务")
    command("setup", words)
    command("detect", Text(en="show what this machine has", zh="显示本机配置"))
    words = Text(en="say which Triton image suits a machine, and why", zh="说明哪个 Triton 镜像适合该机器及原因")
    recommend = command("recommend", words)
    _what(recommend)
    recommend.takes("--hardware", metavar="FILE", words=_HARDWARE)
    recommend.takes("--engine", words=_ENGINE)
    words = Text(en="show a model's facts, its memory, and the ways to serve it", zh="显示模型信息、内存占用与部署方式")
    inspect = command("inspect", words)
    _what(inspect)
    inspect.takes("--hardware", metavar="FILE", words=_HARDWARE)
    plan = command("plan", Text(en="show what a deployment would do", zh="显示部署将执行的步骤"))
    _what(plan)
    plan.takes("--hardware", metavar="FILE", words=_HARDWARE)
    words = Text(en="print a script that does the same by hand", zh="输出可手工执行的等价脚本")
    plan.takes("--sh", action="store_true", words=words)
    deploy = command("deploy", Text(en="start a deployment", zh="启动部署"))
    _what(deploy)
    deploy.takes("--follow", action="store_true", words=_FOLLOW)
    words = Text(en="go on with a deployment that failed, was stopped or lost", zh="继续失败、已停止或丢失的部署")
    resume = command("resume", words)
    resume.takes("run", metavar="RUN", words=RUN)
    resume.takes("--follow", action="store_true", words=_FOLLOW)
    words = Text(
        en="show what happens in a deployment until it serves or is over", zh="显示部署进展，直到开始服务或结束"
    )
    command("follow", words).takes("run", metavar="RUN", words=RUN)
    logs = command("logs", Text(en="print the logs of a deployment", zh="输出部署日志"))
    logs.takes("run", metavar="RUN", words=RUN)
    logs.takes("--step", words=Text(en="only this step", zh="只看该步骤"))
    command("list", Text(en="list what runs", zh="列出正在运行的部署"))
    command("stop", Text(en="stop a deployment", zh="停止部署")).takes("run", metavar="RUN", words=RUN)
    _chat(command("chat", Text(en="ask a running server", zh="向运行中的服务提问")))
    history = command("history", Text(en="list what was deployed", zh="列出历史部署"))
    words = Text(en="show one deployment whole, as JSON", zh="以 JSON 显示单个部署的全部内容")
    history.takes("run", metavar="RUN", nargs="?", words=words)
    history.takes(
        "--query", default="", words=Text(en="part of a name, model or engine", zh="名称、模型或引擎的一部分")
    )
    history.takes("--engine", default="", words=_ENGINE)
    history.takes("--limit", type=LIMIT, default=50, words=Text(en="so many at most (50)", zh="最多显示条数（50）"))
    words = Text(
        en="show what Slipway left in Docker and nothing uses; remove it with --yes",
        zh="显示 Docker 中 Slipway 留下的闲置内容，加 --yes 删除",
    )
    command("clean", words).takes("--yes", action="store_true", words=Text(en="remove it", zh="确认删除"))
    cli_kept.arguments(command)
    words = Text(
        en="list, make and revoke keys of the OpenAI-compatible API", zh="列出、新建、吊销兼容 OpenAI 的 API 的密钥"
    )
    cli_keys.arguments(command("keys", words))
    words = Text(
        en="list, show, export and delete the conversations of the Chat page", zh="列出、查看、导出、删除对话页的对话"
    )
    cli_talks.arguments(command("conversations", words), LIMIT)
    words = Text(
        en="say what is wrong in a model repository, and how to mend it", zh="检查模型仓库的问题并说明修复办法"
    )
    cli_shelf.lint_arguments(command("lint", words))
    words = Text(
        en="list, check, remove and register TensorRT-LLM engines", zh="列出、检查、删除、登记 TensorRT-LLM 引擎"
    )
    cli_shelf.engines_arguments(command("engines", words))
    return whole_line


def _panel(one: Parser) -> None:
    one.takes("--host", words=Text(en="address to listen on (127.0.0.1)", zh="监听地址（127.0.0.1）"))
    one.takes("--port", words=Text(en="port to listen on (7860)", zh="监听端口（7860）"))
    words = Text(
        en="host names of a reverse proxy, parted by commas (SLIPWAY_NAMES)",
        zh="反向代理的主机名，用逗号分隔（SLIPWAY_NAMES）",
    )
    one.takes("--names", words=words)
    words = Text(en="launch the demo deployment too", zh="同时启动演示部署")
    one.takes("--demo", action="store_true", words=words)


def _what(one: Parser) -> None:
    words = Text(en="a spec file; - for standard input", zh="spec 文件，- 表示标准输入")
    one.takes("spec", nargs="?", metavar="SPEC.json", words=words)
    words = Text(en="the demo model on the embedded engine", zh="在内嵌引擎上运行演示模型")
    one.takes("--demo", action="store_true", words=words)
    words = Text(en="a model folder or hub id, everything else by default", zh="模型目录或模型 ID，其余用默认值")
    one.takes("--model", words=words)
    one.takes("--name", words=Text(en="name of the deployment", zh="部署名称"))


def _chat(one: Parser) -> None:
    one.takes("run", metavar="RUN", words=RUN)
    one.takes("--message", required=True, words=Text(en="what to ask", zh="要提的问题"))
    one.takes("--system", words=Text(en="system prompt", zh="系统提示词"))
    words = Text(en="send the message as a raw prompt", zh="不套用对话模板，原样发送")
    one.takes("--raw", action="store_true", words=words)
    one.takes(
        "--max-tokens", type=int, words=Text(en="length of the answer in tokens, at most", zh="回答的最大 token 数")
    )
    words = Text(en="how freely the answer is drawn; 0: always the likeliest", zh="采样温度，0 表示总取最可能的词")
    one.takes("--temperature", type=float, words=words)
    words = Text(en="draw from the likeliest tokens of this share, up to 1", zh="核采样的概率阈值，最大为 1")
    one.takes("--top-p", type=float, words=words)
    words = Text(en="draw from so many likeliest tokens; 0: all", zh="只从最可能的若干词中采样，0 表示不限")
    one.takes("--top-k", type=int, words=words)
    words = Text(en="above 1 the answer repeats itself less", zh="重复惩罚，大于 1 时减少重复")
    one.takes("--repetition-penalty", type=float, words=words)
    words = Text(en="the same seed draws the same answer", zh="随机种子，相同种子得到相同回答")
    one.takes("--seed", type=int, words=words)
    words = Text(en="end the answer before this text; may be repeated", zh="遇到该文本即结束回答，可多次使用")
    one.takes("--stop", action="append", words=words)
    words = Text(en="a word that the answer may not hold; may be repeated", zh="回答中不得出现的词，可多次使用")
    one.takes("--bad-word", action="append", dest="bad_words", metavar="WORD", words=words)
