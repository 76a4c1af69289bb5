"""Every page as HTML: in both languages, with nothing of a person, a model or a log taken as markup."""

from __future__ import annotations

import re

import pytest

from app.monitor import HostSample, Monitor, ServerSample
from app.ui import compare, fit, launch, units, views, watch
from app.ui.draft import DEFAULTS
from app.ui.history import History
from app.ui.render import page
from app.ui.wizard import option
from backends.events import Event, Kind
from backends.runs import State, Trouble
from backends.spec import Gpu, GpuProcess, Hardware, ModelSource, Spec
from backends.steps import FetchSource, Forecast, Plan, PullImage, Task
from backends.text import LANGUAGES, Text, same
from tests.ui.conftest import StillControl, machine

EVIL = "<img src=x onerror=alert(1)>\"'`${alert(1)}{{7*7}}</pre><script>alert(1)</script>"
FETCH = FetchSource(id="fetch", title=same("F"), origin="git", source="x", folder="{models}/x", argv=("true",))
HAN = re.compile(r"[\u3400-\u9fff]")


def harmless(html: str) -> None:
    """Nothing of EVIL has become markup; it is there as text."""
    assert "<img src=x" not in html
    assert "<script" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html


def failed(control: StillControl, words: str, lines: tuple[str, ...] = ()) -> tuple:
    run = control.begun()
    step = run.plan.steps[0].id
    control.told(run, Event(step=step, kind=Kind.STARTED), Event(step=step, kind=Kind.FAILED, text=same(words)))
    trouble = Trouble(step=step, message=same(words), hint=same(words), exit_status=1, last_lines=lines)
    return control.moved(run, State.FAILED, trouble=trouble), control.steps(run.id)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_machine_is_shown_with_what_is_in_use(language) -> None:
    html = views.detect(machine("h200-x2-busy"), None, (), language)
    assert "NVIDIA H200" in html
    assert "580.159.04" in html
    assert "SM 9.0" in html
    assert "python3" in html


def test_a_machine_without_a_gpu_is_said_to_be_fine_for_the_demo() -> None:
    html = views.detect(Hardware(unknown={"driver_version": Text(en="No driver.", zh="没有驱动。")}), None, (), "en")
    assert "Models run on the CPU" in html
    assert "No driver." in html


def test_each_unknown_fact_says_why() -> None:
    rows = views.checks(Hardware(unknown={"os": Text(en="It hides.", zh="隐藏。")}), "zh")
    assert [(row.value, row.known) for row in rows if row.name == "系统"] == [("隐藏。", False)]


def test_names_of_the_machine_are_text() -> None:
    gpu = Gpu(name=EVIL, processes=(GpuProcess(pid=1, name=EVIL),))
    harmless(views.detect(Hardware(gpus=(gpu,), hostname=EVIL), None, (), "en"))
    harmless(views.rail(Hardware(hostname=EVIL), None, None, False, "en"))


def test_what_a_person_typed_is_text() -> None:
    draft = {**DEFAULTS, "model.kind": "folder", "model.id": EVIL, "name": EVIL}
    harmless(views.model(draft, Hardware(), "", "en"))
    harmless(views.facts(None, same(EVIL), "en"))
    spec = Spec(model=ModelSource(kind="folder", id=EVIL))
    harmless(views.rail(Hardware(), spec, None, True, "en"))


def test_a_plan_is_text() -> None:
    spec = Spec(model=ModelSource(kind="demo"))
    step = Task(id="x", title=same(EVIL), why=same(EVIL), argv=("echo", EVIL), env={"A": EVIL})
    harmless(views.review(Plan(spec=spec, steps=(step,), notes=(same(EVIL),)), (step,), EVIL, "en"))


@pytest.mark.parametrize(
    ("done", "en", "zh"),
    [
        ((), "3 steps · 1.1 GiB · ~3 min 5 s", "3 步 · 1.1 GiB · ~3 分 5 秒"),
        (("pull",), "2 of 3 steps to do · 100 MiB · ~5.0 s", "3 步中待执行 2 步 · 100 MiB · ~5.0 秒"),
        (("pull", "fetch"), "1 of 3 steps to do · nothing to download", "3 步中待执行 1 步 · 无需下载"),
        (("pull", "fetch", "serve"), "Nothing left to do", "没有待执行的步骤"),
    ],
)
def test_the_review_counts_what_is_still_to_do_and_marks_what_is_there(done: tuple[str, ...], en: str, zh: str) -> None:
    steps = (
        PullImage(id="pull", title=same("P"), image="x", forecast=Forecast(seconds=180, download_mib=1000)),
        FETCH.model_copy(update={"forecast": Forecast(seconds=5, download_mib=100)}),
        Task(id="serve", title=same("S"), argv=("true",)),
    )
    plan = Plan(spec=Spec(model=ModelSource(kind="demo")), steps=steps)
    for language, total, word in (("en", en, "done before"), ("zh", zh, "此前已完成")):
        html = views.review(plan, [step for step in steps if step.id not in done], "", language)
        assert html.count(total) == 2
        assert html.count('<li class="kept">') == len(done)
        assert html.count(f"{word}</span></li>") == html.count(f" · {word}</span>") == len(done)
        assert ("~3 " in html.split("<pre")[0]) is ("pull" not in done), "what is there costs nothing"


def test_what_nobody_knows_the_size_of_is_not_said_to_be_nothing() -> None:
    plan = Plan(spec=Spec(model=ModelSource(kind="demo")), steps=(FETCH,))
    assert "download" not in views.total(plan, plan.steps, "en")


def test_an_error_and_its_last_lines_are_text(control: StillControl) -> None:
    run, steps = failed(control, EVIL, (f"ValueError: {EVIL}",))
    for html in launch.slots(run, steps, None, "en").values():
        if "alert" in html:
            harmless(html)
    harmless(launch.result(run, steps, None, "en"))


def test_a_first_answer_is_text(control: StillControl) -> None:
    run = control.served(answer=EVIL)
    harmless(launch.result(run, control.steps(run.id), None, "en"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_error_card_tells_cause_remedy_and_the_first_bad_line(control: StillControl, language) -> None:
    lines = ("I1120 fine", "E1120 note", "RuntimeError: CUDA out of memory", "later", *["more"] * 9)
    run, steps = failed(control, "It broke.", lines)
    html = launch.result(run, steps, None, language)
    assert 'role="alert"' in html
    assert '<span class="bad">RuntimeError: CUDA out of memory</span>' in html
    assert "I1120 fine" not in html.split("report")[0]
    assert html.count("It broke.") >= 2
    assert 'data-do="retry"' in html
    assert run.id in launch.report(run)


def test_a_run_in_progress_shows_step_and_fraction(control: StillControl) -> None:
    run = control.moved(control.begun(), State.RUNNING)
    first, second = run.plan.steps[:2]
    control.told(
        run,
        Event(step=first.id, kind=Kind.STARTED),
        Event(step=first.id, kind=Kind.DONE),
        Event(step=second.id, kind=Kind.STARTED),
        Event(step=second.id, kind=Kind.PROGRESS, fraction=0.5),
    )
    steps = control.steps(run.id)
    assert f"Step 2 of {len(steps)}" in launch.head(run, steps, "en")
    assert f"第 2 步，共 {len(steps)} 步" in launch.head(run, steps, "zh")
    assert launch.percent(steps) == round(100 * 1.5 / len(steps))
    assert launch.shown_step(run.plan, steps) == second.id


def test_the_log_of_a_running_server_is_the_server_s_not_that_of_the_question_it_answered(
    control: StillControl,
) -> None:
    run = control.served()
    steps = control.steps(run.id)
    assert steps[-1].id != run.plan.service.id
    assert launch.shown_step(run.plan, steps) == run.plan.service.id


def test_a_running_server_shows_its_addresses_and_its_first_answer(control: StillControl) -> None:
    run = control.served()
    html = launch.result(run, control.steps(run.id), None, "en")
    assert "127.0.0.1:8001" in html
    assert "Hello." in html
    assert "TTFT 186 ms" in html


def test_forecast_and_measured_memory_stand_side_by_side(control: StillControl) -> None:
    run = control.served()
    shown = launch.result(run, control.steps(run.id), None, "en")
    assert re.search(r"<dt>Forecast</dt><dd>[\d.]+ [MG]iB</dd>", shown) and "<dt>Measured</dt><dd>–</dd>" in shown
    forecast = run.plan.memory_mib
    measured = run.model_copy(update={"measured": {"memory_mib": 400.0}})
    assert launch.memory(measured) == (units.gib(forecast), units.gib(400), f"{100 * (forecast - 400) / 400:+.0f}")
    stopped = measured.model_copy(update={"state": State.STOPPED})
    assert "预测偏差" in launch.result(stopped, (), None, "zh")
    bare = run.plan.model_copy(update={"memory_mib": None})
    assert "data-memory" not in launch.result(run.model_copy(update={"plan": bare}), (), None, "en")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_way_of_every_machine_can_be_shown(control: StillControl, language) -> None:
    for name in ("h200", "h200-x2-busy"):
        control.machine = machine(name)
        ways = control.ways(Spec(model=ModelSource(kind="demo")))
        options = [option(way, way is ways[0], True, language) for way in ways]
        html = views.engine(dict(DEFAULTS), options, True, language)
        assert html.count('name="choice"') == len(ways)
        assert html.count("disabled") == sum(bool(way.reasons) for way in ways)
        bar = fit.fit(ways[0].memory, language)
        assert bar is not None
        assert "GPU 0" in bar.title


def test_the_parts_of_the_bar_fill_what_is_taken(control: StillControl) -> None:
    control.machine = machine("h200-x2-busy")
    bar = fit.fit(control.forecast(Spec(model=ModelSource(kind="demo"))), "en")
    assert bar is not None
    assert bar.needed_mib == sum(part.mib for part in bar.parts if part.shade != "u")
    assert sum(float(part.percent) for part in bar.parts) <= 100


def test_the_strip_counts_every_release(control: StillControl) -> None:
    control.machine = machine("h200")
    strip = fit.strip(control.recommend(), "en")
    assert sum(strip.counts.values()) == len(strip.cells) == sum(year.months for year in strip.years)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_monitor_shows_figures_and_no_zero_for_the_unknown(control: StillControl, language) -> None:
    run = control.served()
    sample = ServerSample(run=run.id, name=run.name, engine="transformers", model="demo", ready=True, requests=4.0)
    watched = watch.Watched(Monitor(seq=1, at=1000.0, servers=(sample,)), (run,))
    figures = {name: value for name, value, _ in watch.figures(sample, language)}
    assert list(figures.values()).count("–") == 5
    assert run.name in watch.monitor(watched, language)
    message = watch.message(watched, language, whole=True)
    assert message["plots"]["speed"]["series"][0]["name"] == run.name


def test_a_server_that_does_not_answer_is_said_so(control: StillControl) -> None:
    run = control.served()
    sample = ServerSample(run=run.id, name=run.name, engine="transformers", model="demo", ready=False)
    card = watch.cards(watch.Watched(Monitor(servers=(sample,)), (run,)), "en")[0]
    assert (card.word.en, card.shape) == ("Not answering", "degraded")


def test_a_later_message_of_the_monitor_brings_one_point_a_series() -> None:
    points = tuple((float(second), 1.0) for second in range(900))
    host = HostSample(ram_total_mib=100.0, history={"cpu_percent": points, "ram_used_mib": points})
    watched = watch.Watched(Monitor(host=host), ())
    for whole, count in ((True, 900), (False, 1)):
        for series in watch.message(watched, "en", whole)["plots"]["host"]["series"]:
            assert len(series["points"]) == count


def test_no_english_page_holds_a_chinese_word(control: StillControl) -> None:
    run = control.served()
    compared = compare.sections(run, run, control.side_by_side(run.id, run.id), "en")
    pages = [
        views.detect(machine("h200"), fit.strip(control.recommend(), "en"), (), "en"),
        views.model(dict(DEFAULTS), machine("h200"), "", "en"),
        views.review(run.plan, run.plan.steps[-2:], "", "en"),
        watch.chat((run,), (), "en"),
        watch.monitor(watch.Watched(Monitor(), (run,)), "en"),
        History(control, dict).whole("en"),
        page("compare", "en", runs=(run, run), sections=compared),
        *launch.slots(run, control.steps(run.id), None, "en").values(),
    ]
    for html in pages:
        visible = re.sub(r"<pre.*?</pre>", "", html, flags=re.DOTALL)  # a plan file holds both languages
        assert not HAN.search(visible), HAN.search(visible)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0.4 s"), (61, "1 min 1 s"), (2739, "45 min 39 s"), (7200, "2 h"), (None, "–")]
)
def test_durations_are_said_in_two_units(seconds, words) -> None:
    assert units.duration(seconds) == words


def test_memory_is_said_in_gib() -> None:
    assert units.gib(24576) == "24.0 GiB"
    assert units.gib(7) == "7 MiB"
    assert units.gib(None) == "–"
