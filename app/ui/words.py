"""Words and shapes that several pages share: states, verdicts, engines, and what the page's own scripts say."""

from __future__ import annotations

from typing import NamedTuple

from backends.runs import Standing, State
from backends.text import Text, same


class Shown(NamedTuple):
    """A state as a word and a shape of the status mark (never colour alone)."""

    word: Text
    shape: str


class Verdict(NamedTuple):
    """A verdict as a word and an icon of the sprite."""

    word: Text
    icon: str


STATES: dict[State, Shown] = {
    State.QUEUED: Shown(Text(en="Queued", zh="排队中"), "starting"),
    State.RUNNING: Shown(Text(en="Launching", zh="启动中"), "starting"),
    State.SERVING: Shown(Text(en="Running", zh="运行中"), "running"),
    State.STOPPING: Shown(Text(en="Stopping", zh="停止中"), "starting"),
    State.DONE: Shown(Text(en="Done", zh="已完成"), "running"),
    State.STOPPED: Shown(Text(en="Stopped", zh="已停止"), "stopped"),
    State.FAILED: Shown(Text(en="Failed", zh="失败"), "failed"),
    State.LOST: Shown(Text(en="Lost", zh="已丢失"), "failed"),
}

STANDINGS: dict[Standing, Text] = {
    Standing.WAITING: Text(en="waiting", zh="等待"),
    Standing.NOW: Text(en="in progress", zh="进行中"),
    Standing.DONE: Text(en="done", zh="完成"),
    Standing.SKIPPED: Text(en="done before", zh="已复用"),
    Standing.FAILED: Text(en="failed", zh="失败"),
    Standing.STOPPED: Text(en="stopped", zh="已停止"),
    Standing.LOST: Text(en="lost", zh="已丢失"),
}

SHAPES: dict[Standing, str] = {
    Standing.WAITING: "",
    Standing.NOW: "now",
    Standing.DONE: "done",
    Standing.SKIPPED: "done",
    Standing.FAILED: "bad",
    Standing.STOPPED: "bad",
    Standing.LOST: "bad",
}

VERDICTS: dict[str, Verdict] = {
    "native": Verdict(Text(en="Native", zh="原生"), "check"),
    "forward": Verdict(Text(en="Forward", zh="前向兼容"), "fwd"),
    "minor": Verdict(Text(en="Minor", zh="次要版本"), "half"),
    "doubtful": Verdict(Text(en="Doubtful", zh="存疑"), "q"),
    "impossible": Verdict(Text(en="Impossible", zh="不可运行"), "cross"),
}

ENGINES: dict[str, Text] = {
    "transformers": same("Transformers"),
    "fastertransformer": same("FasterTransformer"),
    "tensorrt_llm": same("TensorRT-LLM"),
    "vllm": same("vLLM"),
}

ORIGINS: dict[str, Text] = {  # where a value comes from
    "detected": Text(en="detected", zh="检测"),
    "recommended": Text(en="recommended", zh="推荐"),
    "yours": Text(en="yours", zh="自定"),
}

TABS: dict[str, Text] = {
    "wizard": Text(en="Wizard", zh="部署"),
    "chat": Text(en="Chat", zh="对话"),
    "monitor": Text(en="Monitor", zh="监控"),
    "history": Text(en="History", zh="历史"),
}

# What the page's own scripts say. {n} and the like are put in by the script.
SCRIPT: dict[str, Text] = {
    "copied": Text(en="Copied", zh="已复制"),
    "live": Text(en="Live", zh="实时"),
    "ended": Text(en="Ended", zh="已结束"),
    "reconnecting": Text(en="Reconnecting", zh="正在重连"),
    "lines": Text(en="{n} lines", zh="{n} 行"),
    "newLines": Text(en="{n} new lines", zh="{n} 行新日志"),
    "thisStart": Text(en="This start ({n})", zh="本次启动（第 {n} 次）"),
    "previousStart": Text(en="Previous start ({n})", zh="上次启动（第 {n} 次）"),
    "oneStart": Text(en="Start {n} of {all}", zh="第 {n} 次启动，共 {all} 次"),
    "allStarts": Text(en="All {n} starts", zh="全部 {n} 次启动"),
    "earlier": Text(en="{n} earlier lines are in the download", zh="更早的 {n} 行见下载文件"),
    "found": Text(en="{a} of {n}", zh="{a} / {n}"),
    "notFound": Text(en="none", zh="无结果"),
    "answering": Text(en="Answering", zh="生成中"),
    "stoppedByYou": Text(en="Stopped by you", zh="由你停止"),
    "atLimit": Text(en="Ended at the token limit", zh="已达 token 上限"),
    "tokens": Text(en="tokens", zh="token"),
    "cutShort": Text(en="Cut short", zh="中途中断"),
    "again": Text(en="Again", zh="重新生成"),
    "edit": Text(en="Edit", zh="编辑"),
    "viewCode": Text(en="View code", zh="查看代码"),
    "earlierOne": Text(en="Earlier version", zh="上一版本"),
    "laterOne": Text(en="Later version", zh="下一版本"),
    "version": Text(en="Version {a} of {n}", zh="第 {a} 版，共 {n} 版"),
    "send": Text(en="Send", zh="发送"),
    "cancel": Text(en="Cancel", zh="取消"),
    "stop": Text(en="Stop", zh="停止"),
    "newChat": Text(en="New chat", zh="新对话"),
    "question": Text(en="Question", zh="问题"),
    "notKept": Text(en="Not kept", zh="未保存"),
    "noTalks": Text(en="No conversations yet", zh="还没有对话"),
    "noTalkFound": Text(en="Nothing matches", zh="没有匹配的对话"),
    "moreTalks": Text(en="Show more", zh="显示更多"),
    "deleteTalk": Text(en="Delete “{name}”?", zh="删除“{name}”？"),
    "deleteTalkText": Text(
        en="All its questions and answers are removed, every branch. Export it first to keep a copy.",
        zh="全部问题与回答（含所有分支）将被删除，可先导出备份。",
    ),
    "delete": Text(en="Delete", zh="删除"),
    "keep": Text(en="Keep", zh="保留"),
    "deleted": Text(en="Deleted", zh="已删除"),
    "serverGone": Text(
        en="{gone} is not running. The next answer comes from {name}.", zh="{gone} 未在运行，下一个回答来自 {name}。"
    ),
    "fresh": Text(en="{name} hears the next question.", zh="{name} 从下一个问题开始回答。"),
    "codeTitle": Text(en="Code for this question", zh="此问题的代码"),
    "codeAbout": Text(en="{name}, same parameters", zh="{name}，参数相同"),
    "prompt": Text(en="Prompt", zh="提示原文"),
    "promptAbout": Text(
        en="What the model is given to continue, by its template.", zh="按模板组成、交给模型续写的原文。"
    ),
    "formats": Text(en="Formats", zh="格式"),
    "close": Text(en="Close", zh="关闭"),
    "copy": Text(en="Copy", zh="复制"),
    "failed": Text(en="No answer", zh="没有回答"),
    "none": Text(en="none", zh="无"),
    "set": Text(en="set", zh="已设置"),
    "temperature": Text(en="temp", zh="温度"),
    "defaults": Text(en="model's own", zh="模型默认"),
    "hello": Text(en="Ask {name} a question.", zh="向 {name} 提问。"),
    "noServer": Text(en="Launch a model to go on", zh="启动模型后可继续"),
    "ask": Text(en="Ask {name}", zh="向 {name} 提问"),
    "noSample": Text(en="Waiting for the first sample", zh="等待第一个采样"),
    "noGpu": Text(en="No GPU on this machine", zh="本机没有 GPU"),
    "memory": Text(en="Memory", zh="内存"),
    "unheard": Text(en="The panel did not answer.", zh="面板没有响应。"),
    "unheardHint": Text(
        en="It may have carried this out all the same: look before you try again.",
        zh="操作可能已经执行，重试前请先确认。",
    ),
    "half": Text(en="Parts of this page did not come.", zh="页面的部分文件未能加载。"),
    "loadAgain": Text(en="Load it again", zh="重新加载"),
    "gone": Text(
        en="The panel does not answer. The page goes on as soon as it is back.", zh="面板没有响应，恢复后页面会继续。"
    ),
    "ok": Text(en="Close", zh="关闭"),
    "untold": Text(en="not told", zh="不提供"),
    "compare": Text(en="Compare", zh="对比"),
    "compareN": Text(en="Compare {n}", zh="对比 {n} 项"),
    "tooLarge": Text(
        en="The file is larger than 16 MiB, which no deployment is.", zh="文件超过 16 MiB，不是部署文件。"
    ),
    "soFarMinutes": Text(en="{m} min {s} s so far", zh="已用 {m} 分 {s} 秒"),
    "soFar": Text(en="{s} s so far", zh="已用 {s} 秒"),
    "pause": Text(en="Pause", zh="暂停"),
    "resume": Text(en="Go on", zh="继续"),
}
