"""The whole application over HTTP: the page, logs, answers, the login, and what nobody may do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest
from starlette.testclient import TestClient

from app.guard import COOKIE, Login
from app.settings import ASSETS
from app.ui.opening import SCRIPTS
from app.web import ASK_LIMIT, web
from tests.live.browser import panel_of
from tests.ui.conftest import StillControl

ORIGIN = "http://127.0.0.1:7860"


@pytest.fixture
def panel(control: StillControl) -> Iterator[TestClient]:
    with TestClient(web(control, control.settings, None), base_url=ORIGIN) as client:
        yield client


def test_the_page_comes_with_its_styles_and_scripts_from_this_host(panel: TestClient) -> None:
    html = panel.get("/").text
    assert "/slipway/ui/tokens.css" in html
    for path in re.findall(r'(?:href|src)=\\?"(/slipway/ui/[^"\\]+)', html):
        assert panel.get(path).status_code == 200
    assert 'analytics_enabled":false' in html.replace(" ", "")


def test_what_looks_after_missing_files_stands_before_all_of_them_in_the_page_itself(panel: TestClient) -> None:
    answer = panel.get("/")
    head = answer.text.partition("<head>")[2]
    assert head.startswith("<script>window.slipwayWords = {")
    first = re.search(r'<(?:script|link)[^>]+(?:src|href)="', head)
    assert first is not None and "slipway_loads" in head[: first.start()]
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert all("</script" not in (ASSETS / "ui" / "js" / name).read_text() for name in SCRIPTS)


def test_static_files_do_not_leave_their_folder(panel: TestClient) -> None:
    for path in (
        "/slipway/ui/../../pyproject.toml",
        "/slipway/ui/%2e%2e/%2e%2e/pyproject.toml",
        "/slipway/ui//etc/passwd",
    ):
        assert panel.get(path).status_code in (404, 421) or "<html" in panel.get(path).text


def test_a_log_can_be_read_and_downloaded(panel: TestClient, control: StillControl) -> None:
    run = control.begun()
    step = run.plan.steps[0].id
    control.wrote(run, step, "<script>alert(1)</script>\n")
    answer = panel.get(f"/slipway/runs/{run.id}/log/{step}")
    assert answer.text == "<script>alert(1)</script>\n"
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.headers["content-disposition"].startswith("attachment")


def test_a_log_that_grows_while_it_is_downloaded_comes_as_it_was_when_it_was_asked_for(control: StillControl) -> None:
    run = control.begun()
    step, whole = run.plan.steps[0].id, b"x" * (16 * 2**20) + b"\n"  # more than lies between two programs
    control.wrote(run, step, whole)
    with panel_of(control) as address:
        browser = HTTPConnection(address.removeprefix("http://"), timeout=60)
        browser.request("GET", f"/slipway/runs/{run.id}/log/{step}")
        answer = browser.getresponse()
        control.wrote(run, step, "more\n")
        assert int(answer.headers["content-length"]) == len(whole)
        assert answer.read() == whole
        browser.close()


def test_the_log_of_one_start_can_be_downloaded(panel: TestClient, control: StillControl) -> None:
    run = control.begun()
    step = run.plan.steps[0].id
    for text in ("first\n", "second\n"):
        control.starts(run, step, text)
    answers = [panel.get(f"/slipway/runs/{run.id}/log/{step}?start={start}") for start in (1, 2, 3, -1)]
    assert [answer.text for answer in answers[:2]] == ["first\n", "second\n"]
    assert "start-2.log" in answers[1].headers["content-disposition"]
    assert [answer.status_code for answer in answers[2:]] == [404, 404]
    assert panel.get(f"/slipway/stream?run={run.id}&step={step}&start=3").status_code == 404


@pytest.mark.parametrize(
    "path", ["x/log/y", "../../etc/log/passwd", "{run}/log/..%2F..%2Fslipway.db", "{run}/log/none"]
)
def test_only_logs_of_steps_can_be_read(panel: TestClient, control: StillControl, path: str) -> None:
    assert panel.get(f"/slipway/runs/{path.format(run=control.begun().id)}").status_code == 404


def test_a_stream_of_a_run_that_is_not_there_is_refused(panel: TestClient) -> None:
    assert panel.get("/slipway/stream?run=nobody").status_code == 404


@pytest.mark.parametrize(
    "path", ["/gradio_api/queue/join", "/gradio_api/run/predict", "/slipway/ask", "/slipway/chat", "/slipway/logout"]
)
def test_another_site_cannot_use_gradio_nor_our_routes(panel: TestClient, path: str) -> None:
    for origin in ("https://evil.example", "null"):
        assert panel.post(path, json={}, headers={"origin": origin}).status_code in (403, 404)


def test_the_page_asks_and_is_answered_in_json(panel: TestClient) -> None:
    told = {"do": "boot", "language": "zh", "serial": 3, "key": "a"}
    answer = panel.post("/slipway/ask", json=told)
    assert answer.json()["reply"] | {"do": "boot", "serial": 3, "go": "stage:1"} == answer.json()["reply"]
    assert "检查" in answer.json()["detect"]
    assert answer.headers["cache-control"] == "no-store"
    for body in ("[]", "{", ""):
        assert panel.post("/slipway/ask", content=body).status_code == 400
    assert panel.post("/slipway/ask", content=b" " * (ASK_LIMIT + 1)).status_code == 400


DOORS = [
    "/gradio_api/info", "/gradio_api/openapi.json", "/docs", "/openapi.json", "/monitoring", "/gradio_api/upload",
    "/gradio_api/file=/etc/passwd", "/gradio_api/call/act", "/gradio_api/queue/join", "/gradio_api/queue/data",
]  # fmt: skip


@pytest.mark.parametrize("path", DOORS)
def test_gradio_s_other_doors_are_shut(panel: TestClient, path: str) -> None:
    assert panel.get(path).status_code == 404


def test_what_no_route_takes_is_refused_in_the_page_s_language(panel: TestClient) -> None:
    for path, status, zh in (
        ("/slipway/runs/a/log/b?start=x", 400, "start：必须是整数"),
        ("/slipway/conversations?at=noon", 400, "at：必须是日期与时间"),
        ("/slipway/ui/none.css", 404, "没有内容"),
    ):
        answers = [panel.get(path, headers={"cookie": f"slipway_language={one}"}) for one in ("zh", "en")]
        assert [answer.status_code for answer in answers] == [status, status]
        assert zh in answers[0].json()["title"]
        assert answers[1].json()["title"].isascii()


def test_the_data_folder_is_not_served(panel: TestClient, control: StillControl) -> None:
    database = control.settings.home / "slipway.db"
    for path in (f"/gradio_api/file={database}", f"/file={database}", f"/gradio_api/file=file://{database}"):
        assert panel.get(path).status_code == 404


def test_the_login_guards_the_page_gradio_and_our_routes(control: StillControl) -> None:
    settings = control.settings.model_copy(update={"host": "0.0.0.0"})
    with TestClient(web(control, settings, Login("open sesame")), base_url=ORIGIN, follow_redirects=False) as panel:
        for path in ("/config", "/slipway/stream", "/slipway/ask", "/theme.css", "/slipway/runs/a/log/b"):
            assert panel.get(path).status_code == 401
        assert panel.get("/", headers={"accept": "text/html"}).headers["location"] == "/slipway/login"
        assert "Password" in panel.get("/slipway/login").text
        assert "密码" in panel.get("/slipway/login", headers={"accept-language": "zh-CN,zh"}).text
        wrong = panel.post("/slipway/login", content="password=guess")
        assert wrong.status_code == 401
        entered = panel.post("/slipway/login", content="password=open+sesame")
        assert entered.status_code == 303
        cookie = entered.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert panel.get("/config").status_code == 200
        panel.post("/slipway/logout")
        assert COOKIE not in panel.cookies
        assert panel.get("/config").status_code == 401


def test_guessing_is_answered_later_and_later(control: StillControl) -> None:
    login = Login("x", lambda: 0.0)  # a clock that stands, however long a busy machine takes between two guesses
    with TestClient(web(control, control.settings, login), base_url=ORIGIN, follow_redirects=False) as panel:
        codes = [panel.post("/slipway/login", content="password=guess").status_code for _ in range(7)]
    assert codes[:5] == [401] * 5
    assert codes[-1] == 429
