"""The live stream: nothing missing, nothing twice, one look for all viewers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import psutil
import pytest

from app.live import Followed, Live, Wanted
from backends.events import Event, Kind
from backends.runs import Run, State
from tests.ui.conftest import StillControl

pytestmark = pytest.mark.asyncio


async def messages(stream: AsyncIterator[bytes]) -> AsyncIterator[tuple[str, Any, str | None]]:
    """Each event as (name, data, id)."""
    async with aclosing(stream) as opened:
        async for chunk in opened:
            fields = dict(line.split(": ", 1) for line in chunk.decode().splitlines() if ": " in line)
            if "event" in fields:
                yield fields["event"], json.loads(fields["data"]), fields.get("id")


async def lines(
    live: Live, run: Run, step: str, count: int = 0, start: int | None = None, last: str | None = None
) -> tuple[list[str], int]:
    """The next `count` lines of a log, or all up to `last`, and the cursor behind them."""
    got: list[str] = []
    cursor = start or 0
    async with asyncio.timeout(60), aclosing(messages(live.stream(Wanted("en", run.id, step, start)))) as told:
        async for name, data, mark in told:
            if name == "log":
                assert data["from"] == cursor
                assert mark == str(data["to"])
                cursor = data["to"]
                got += data["lines"]
                if len(got) >= count and (last is None or last in got):
                    break
    return got, cursor


def running(control: StillControl) -> tuple[Run, str]:
    run = control.moved(control.begun(), State.RUNNING)
    step = run.plan.steps[0].id
    control.told(run, Event(step=step, kind=Kind.STARTED))
    return run, step


async def test_a_stream_with_nothing_to_tell_says_that_it_lives(
    control: StillControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.live.BEAT_S", 0.05)
    async with asyncio.timeout(20), aclosing(messages(Live(control).stream(Wanted("en")))) as told:
        names: list[str] = []
        while names.count("here") < 3:
            names.append((await anext(told))[0])
    assert set(names) <= {"panel", "here"}


async def test_lines_come_as_they_are_written(control: StillControl) -> None:
    run, step = running(control)
    live = Live(control)
    wanted = asyncio.create_task(lines(live, run, step, 3))
    for line in ("one\n", "tw", "o\nthree\n"):
        control.wrote(run, step, line)
        await asyncio.sleep(0.15)
    assert (await wanted)[0] == ["one", "two", "three"]


async def test_a_viewer_that_comes_back_misses_nothing_and_repeats_nothing(control: StillControl) -> None:
    run, step = running(control)
    live = Live(control)
    written = [f"line {number}" for number in range(30_000)]
    control.wrote(run, step, "\n".join(written[:20_000]) + "\n")
    first, cursor = await lines(live, run, step, 1)
    control.wrote(run, step, "\n".join(written[20_000:]) + "\n")
    second, _ = await lines(live, run, step, len(written) - len(first), cursor)
    assert first + second == written


async def test_many_viewers_at_different_places_each_get_every_line(control: StillControl) -> None:
    run, step = running(control)
    live = Live(control)
    control.wrote(run, step, "".join(f"old {number}\n" for number in range(100)))
    viewers = [asyncio.create_task(lines(live, run, step, 300)) for _ in range(4)]
    for number in range(200):
        control.wrote(run, step, f"new {number}\n")
        if number % 50 == 0:
            await asyncio.sleep(0.1)
            viewers.append(asyncio.create_task(lines(live, run, step, 300)))
    expected = [f"old {number}" for number in range(100)] + [f"new {number}" for number in range(200)]
    for viewer in viewers:
        assert (await viewer)[0] == expected


async def test_the_last_line_comes_when_the_step_ends_though_it_has_no_end(control: StillControl) -> None:
    run, step = running(control)
    control.wrote(run, step, "whole\nhalf")
    live = Live(control)
    wanted = asyncio.create_task(lines(live, run, step, 2))
    await asyncio.sleep(0.3)
    control.told(run, Event(step=step, kind=Kind.DONE))
    assert (await wanted)[0] == ["whole", "half"]


async def test_progress_bars_colours_and_bytes_are_made_fit_to_show(control: StillControl) -> None:
    run, step = running(control)
    control.wrote(run, step, b"\x1b[31mred\x1b[0m\n10%\r50%\r100%\nraw \xff\x00 bytes\n")
    control.wrote(run, step, "x" * 5_000_000 + "\nend\n")
    got, _ = await lines(Live(control), run, step, last="end")
    assert got[:2] == ["red", "100%"]
    assert "\x00" not in "".join(got)
    assert max(map(len, got)) < 5000
    assert sum(map(len, got)) < 100_000


async def test_a_progress_bar_is_seen_while_its_line_has_no_end(control: StillControl) -> None:
    run, step = running(control)
    control.wrote(run, step, "one\n")
    seen = []
    stream = Live(control).stream(Wanted("en", run.id, step))
    async with asyncio.timeout(60), aclosing(messages(stream)) as told:
        async for name, data, _ in told:
            if name != "log":
                continue
            assert data["from"] == (0 if not seen else 4)
            seen.append((data["lines"], data.get("rest")))
            if len(seen) == 4:
                break
            control.wrote(run, step, ("10%", "\r50%", "\r100%\n")[len(seen) - 1])
    assert seen == [(["one"], None), ([], "10%"), ([], "50%"), (["100%"], None)]


async def test_of_a_very_long_log_the_end_is_sent(control: StillControl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.live.TAIL_BYTES", 1000)
    run, step = running(control)
    control.wrote(run, step, "".join(f"line {number:05}\n" for number in range(1000)))
    got = []
    async with asyncio.timeout(60), aclosing(messages(Live(control).stream(Wanted("en", run.id, step)))) as told:
        async for name, data, _ in told:
            if name == "skip":
                assert data["bytes"] == 10_000
            if name == "log":
                got += data["lines"]
                break
    assert got[-1] == "line 00999"
    assert len(got) <= 91


async def test_one_start_is_told_from_its_first_to_its_last_byte(control: StillControl) -> None:
    run, step = running(control)
    live = Live(control)

    async def told(start: int, count: int, then: str = "") -> list[tuple[list[str], bool]]:
        got: list[tuple[list[str], bool]] = []
        async with (
            asyncio.timeout(60),
            aclosing(messages(live.stream(Wanted("en", run.id, step, start=start)))) as seen,
        ):
            async for name, data, _ in seen:
                if name == "log":
                    got.append((data["lines"], data["ended"]))
                    if len(got) == count:
                        return got
                    control.starts(run, step, then)
        return got

    control.starts(run, step, "first\nkilled he")
    control.starts(run, step, "second\n")
    assert await told(1, 1) == [(["first", "killed he"], True)]
    assert await told(2, 2, "third\n") == [(["second"], False), ([], True)]
    assert await told(3, 1) == [(["third"], False)]
    assert (await told(0, 1))[0][0] == ["first", "killed hesecond", "third"]
    async with asyncio.timeout(60), aclosing(messages(live.stream(Wanted("en", run.id)))) as seen:
        assert [data["starts"] async for name, data, _ in seen if name == "run" and not live.close()] == [{step: 3}]


@pytest.mark.alone
async def test_a_million_lines_neither_slow_the_panel_nor_grow_its_memory(control: StillControl) -> None:
    run, step = running(control)
    live, panel, lags = Live(control), psutil.Process(), list[float]()
    control.wrote(run, step, "warm\n")
    await lines(live, run, step, 1)
    before, most, count, cursor = panel.memory_info().rss, 0, 0, 5

    async def beat() -> None:
        while True:
            begun = time.monotonic()
            await asyncio.sleep(0.01)
            lags.append(time.monotonic() - begun - 0.01)

    def wrote(first: int, last: int) -> None:
        control.wrote(run, step, "".join(f"I1121 11:48 line {number}\n" for number in range(first, last)))

    beating = asyncio.create_task(beat())
    for part in range(4):
        await asyncio.to_thread(wrote, part * 250_000, (part + 1) * 250_000)  # what the test does itself is no lag
        stream = live.stream(Wanted("en", run.id, step, cursor))
        async with asyncio.timeout(60), aclosing(stream) as opened:
            async for chunk in opened:
                if b"event: log" in chunk:
                    count += chunk.count(b"I1121")
                    cursor = int(chunk.split(b"\n", 1)[0].removeprefix(b"id: "))
                    most = max(most, panel.memory_info().rss)
                    if count == (part + 1) * 250_000:
                        break
    beating.cancel()
    assert count == 1_000_000
    assert (most - before) / 2**20 < 64
    assert sorted(lags)[-3] < 0.25


async def test_a_change_of_a_run_reaches_the_page_in_its_language(control: StillControl) -> None:
    run, _ = running(control)
    live = Live(control)
    async with asyncio.timeout(60), aclosing(messages(live.stream(Wanted("zh", run.id)))) as told:
        async for name, data, _ in told:
            if name != "run":
                continue
            if data["state"] == "running":
                assert "正在启动 demo" in data["slots"]["launch-head"]
                control.moved(run, State.FAILED)
            else:
                assert data["state"] == "failed"
                break


async def test_the_header_follows_what_runs(control: StillControl) -> None:
    live = Live(control)
    async with asyncio.timeout(60), aclosing(messages(live.stream(Wanted("en")))) as told:
        async for name, data, _ in told:
            if name != "panel":
                continue
            if data["serving"]:
                assert "1 running" in data["slots"]["panel"]
                break
            assert "none running" in data["slots"]["panel"]
            control.served()


async def test_one_look_serves_every_viewer_and_none_is_left_when_they_go() -> None:
    looks = 0

    def look() -> int:
        nonlocal looks
        looks += 1
        return looks

    for period_s, viewers in ((600.0, 10), (0.02, 1)):
        before, followed = looks, Followed(lambda: look, period_s)
        wakes = [asyncio.Event() for _ in range(viewers)]
        with contextlib.ExitStack() as watching:
            for wake in wakes:
                watching.enter_context(followed.watched(wake))
            for wake in wakes:
                await asyncio.wait_for(wake.wait(), 30)
            if viewers > 1:
                assert looks == before + 1
    seen = looks
    await asyncio.sleep(0.1)
    assert looks <= seen + 1


async def test_followers_are_forgotten_when_the_last_viewer_goes(control: StillControl) -> None:
    run, step = running(control)
    control.wrote(run, step, "x\n")
    live = Live(control)
    await lines(live, run, step, 1)
    assert not live._runs
    assert not live._logs


async def test_what_was_seen_before_nobody_watched_is_told_to_nobody(control: StillControl) -> None:
    live, wanted = Live(control), Wanted("en", monitor=True)
    for serving in (0, 1):
        if serving:
            control.served()
        async with asyncio.timeout(60), aclosing(messages(live.stream(wanted))) as told:
            first: dict[str, Any] = {}
            while len(first) < 2:
                name, data, _ = await anext(told)
                first.setdefault(name, data)
        assert len(first["panel"]["serving"]) == serving
        assert first["monitor"]["slots"]["servers"].count("data-server") == serving


async def test_a_stream_ends_when_the_panel_does(control: StillControl) -> None:
    live, begun = Live(control), asyncio.Event()

    async def all_of_it() -> list[str]:
        told = []
        async for name, _, _ in messages(live.stream(Wanted("en"))):
            told.append(name)
            begun.set()
        return told

    watched = asyncio.create_task(all_of_it())
    await asyncio.wait_for(begun.wait(), 30)
    live.close()
    assert "panel" in await asyncio.wait_for(watched, 30)
