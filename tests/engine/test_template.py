"""Chat templates are programs that come with models: bounded in time and memory, and out of Python's reach."""

from __future__ import annotations

import resource
import signal
import threading
from collections.abc import Iterator

import psutil
import pytest
from slipway_engine.errors import RequestError
from slipway_engine.request import Message
from slipway_engine.template import Template
from slipway_engine.template_worker import CPU_S
from transformers.utils.chat_template_utils import render_jinja_template

TURNS = (Message("system", "Be brief."), Message("user", "你好 <b>"))
PLAIN = (
    "{{ bos_token }}{%- for m in messages %}\n  {{ '<|' + m['role'] + '|>' }}{{ m.content | trim }}{{ eos_token }}"
    "{%- endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}{{ messages | tojson }}"
)
VARIABLES = {"bos_token": "<s>", "eos_token": "</s>"}
MADE: list[Template] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while MADE:
        MADE.pop().close()


def make(text: str) -> Template:
    MADE.append(Template(text, VARIABLES))
    return MADE[-1]


def refusal(template: Template) -> str:
    with pytest.raises(RequestError) as caught:
        template.render(TURNS)
    assert caught.value.field == "messages"
    return caught.value.en


def process(template: Template) -> psutil.Process:
    assert template._process is not None
    return psutil.Process(template._process.pid)


def of_ended() -> float:
    """Seconds of the processor's time that children took which have ended."""
    return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def test_a_conversation_is_rendered_as_transformers_does() -> None:
    wanted = render_jinja_template(
        [[{"role": turn.role, "content": turn.content} for turn in TURNS]],
        chat_template=PLAIN,
        add_generation_prompt=True,
        **VARIABLES,
    )[0][0]
    assert make(PLAIN).render(TURNS) == wanted


@pytest.mark.parametrize(
    "bomb",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='y' * 9) %}{% for a in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{{ 'x' * 9999999999 }}",
        "{% set n = messages | length + 7 %}{{ n ** (n ** n) }}",
    ],
    ids=["loops", "doubling", "long", "power"],
)
def test_a_bomb_is_stopped_and_the_next_rendering_works(bomb: str) -> None:
    template = make("{% if messages[0].content == 'calm' %}calm{% else %}" + bomb + "{% endif %}")
    assert template.render((Message("user", "calm"),)) == "calm"
    used, ended = sum(process(template).cpu_times()[:2]), of_ended()
    assert "template" in refusal(template)
    assert of_ended() - ended < used + CPU_S + 0.5
    assert sum(process(template).cpu_times()[:2]) < used + CPU_S + 0.5
    assert template.render((Message("user", "calm"),)) == "calm"


@pytest.mark.parametrize(
    "escape",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ messages.append(1) }}",
    ],
)
def test_a_template_does_not_reach_python(escape: str) -> None:
    assert "SecurityError" in refusal(make(escape))


def test_a_template_that_gets_no_turn_for_a_while_is_rendered_all_the_same() -> None:
    template = make("{{ messages[1].content }}")
    template.render(TURNS)
    worker = process(template)
    worker.suspend()
    threading.Timer(CPU_S + 0.2, worker.send_signal, (signal.SIGCONT,)).start()
    assert template.render(TURNS) == TURNS[1].content
    assert process(template).pid == worker.pid


def test_a_template_that_refuses_a_conversation_says_why() -> None:
    assert "roles must alternate" in refusal(make("{{ raise_exception('roles must alternate') }}"))


def test_a_long_conversation_does_not_get_stuck_in_the_pipe() -> None:
    text = "字" * 400_000
    assert make("{{ messages[0].content }}").render((Message("user", text),)) == text
