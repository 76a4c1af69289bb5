"""The gate: other sites, other hosts, shut doors, the login and its patience."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from app.guard import COOKIE, FREE_TRIES, SHUT, Guard, Login
from app.settings import settings
from app.web import web
from backends.errors import BadInput
from tests.ui.conftest import StillControl


def client(login: Login | None = None, host: str = "127.0.0.1", base: str = "http://127.0.0.1:7860") -> TestClient:
    async def there(_request: object) -> PlainTextResponse:
        return PlainTextResponse("there")

    app = Starlette(routes=[Route("/{path:path}", there, methods=["GET", "POST"])])
    return TestClient(Guard(app, host=host, login=login), base_url=base, follow_redirects=False)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:7860", "192.168.1.9:7860", "", "[::", "a b"])
def test_a_foreign_host_name_is_not_answered(host: str) -> None:
    assert client().get("/", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:9", "LOCALHOST", "[::1]:7860"])
def test_loopback_names_are_answered_on_any_port(host: str) -> None:
    assert client().get("/", headers={"host": host}).text == "there"


def test_off_loopback_an_address_is_answered_and_a_foreign_name_is_not() -> None:
    panel = client(Login("secret"), host="0.0.0.0")
    assert panel.get("/", headers={"host": "10.1.2.3:7860"}).status_code == 401
    assert panel.get("/", headers={"host": "evil.example"}).status_code == 421


def test_a_reverse_proxy_s_name_is_answered_and_no_other(control: StillControl) -> None:
    told = settings({"home": str(control.settings.home)}, {"SLIPWAY_NAMES": "Slipway.example.org, gpu-7"})
    assert not told.loopback  # others come in through the proxy: they log in
    with TestClient(web(control, told, Login("open sesame")), base_url="http://127.0.0.1:7860") as panel:
        assert panel.get("/slipway/health").json() == {"status": "ok"}, "what keeps the panel alive has no password"
        for host, status in (("slipway.example.org", 401), ("gpu-7:8443", 401), ("127.0.0.1:7860", 401),
                             ("example.org", 421), ("slipway.example.org.evil.example", 421)):  # fmt: skip
            assert panel.get("/config", headers={"host": host}).status_code == status, host
        there = {"host": "slipway.example.org", "origin": "https://slipway.example.org"}
        entered = panel.post("/slipway/login", content="password=open+sesame", headers=there, follow_redirects=False)
        assert entered.status_code == 303
        session = {**there, "cookie": f"{COOKIE}={entered.cookies[COOKIE]}"}
        assert panel.get("/config", headers=session).status_code == 200
        assert panel.post("/slipway/chat", headers={**session, "origin": "https://evil.example"}).status_code == 403


@pytest.mark.parametrize("names", ["http://slipway.example.org", "a:7860", "*", "a/b", "-a", "a..b", "x" * 64])
def test_what_is_no_host_name_is_refused_when_the_panel_starts(names: str) -> None:
    with pytest.raises(BadInput) as refused:
        settings({"names": names}, {})
    assert refused.value.field == "names"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://127.0.0.1:7860.evil.example"},
    ],
    ids=str,
)
def test_another_site_cannot_make_the_panel_act(headers: dict[str, str]) -> None:
    for path in ("/slipway/ask", "/slipway/chat"):
        assert client().post(path, headers=headers).status_code == 403


@pytest.mark.parametrize("headers", [{}, {"origin": "http://127.0.0.1:7860", "sec-fetch-site": "same-origin"}], ids=str)
def test_the_page_itself_and_a_program_can(headers: dict[str, str]) -> None:
    assert client().post("/slipway/chat", headers=headers).text == "there"


@pytest.mark.parametrize("door", SHUT)
def test_doors_that_no_page_of_ours_uses_are_shut(door: str) -> None:
    panel = client()
    for path in (door, f"{door}/x", f"{door}=/etc/passwd"):
        assert panel.get(path).status_code == 404


def test_each_answer_forbids_other_hosts_and_frames() -> None:
    headers = client().get("/").headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "http" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/config", "/slipway/ask", "/slipway/stream", "/slipway/runs/x/log/y"])
def test_nothing_is_told_before_the_login(path: str) -> None:
    panel = client(Login("secret"))
    assert panel.get(path).status_code == 401
    assert panel.post(path).status_code == 401


def test_a_person_without_a_session_is_led_to_the_login() -> None:
    answer = client(Login("secret")).get("/", headers={"accept": "text/html"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/slipway/login")


def test_the_login_page_and_its_styles_are_open() -> None:
    panel = client(Login("secret"))
    assert panel.get("/slipway/login").text == "there"
    assert panel.get("/slipway/ui/tokens.css").text == "there"


def test_whether_the_panel_lives_is_told_before_the_login_and_nothing_beside_it() -> None:
    panel = client(Login("secret"))
    assert panel.get("/slipway/health").text == "there"
    assert panel.get("/slipway/health/x").status_code == 401
    assert panel.get("/slipway/healthx").status_code == 401


REFUSED = [  # method, path, headers, status, Chinese, English
    ("GET", "/", {"host": "evil.example"}, 421, "不以主机名 'evil.example'", "does not answer to the host"),
    ("GET", "/monitoring", {}, 404, "没有内容", "nothing here"),
    ("POST", "/slipway/chat", {"origin": "null"}, 403, "其他网站", "another site"),
    ("GET", "/slipway/stream", {}, 401, "请先登录", "Log in first"),
    ("GET", "/v1/models", {}, 401, "需要密钥", "needs a key"),
]


@pytest.mark.parametrize(("method", "path", "headers", "status", "zh", "en"), REFUSED, ids=[row[1] for row in REFUSED])
def test_who_is_refused_hears_it_in_their_language(
    method: str, path: str, headers: dict[str, str], status: int, zh: str, en: str
) -> None:
    panel = client(Login("secret"))
    chosen = {"accept-language": "zh-CN,zh;q=0.9", "cookie": "slipway_language=en"}
    for language, words in (({}, en), ({"accept-language": "zh-CN,zh;q=0.9"}, zh), (chosen, en)):
        answer = panel.request(method, path, headers={**headers, **language})
        assert answer.status_code == status
        assert words in answer.text


def test_a_path_cannot_pretend_to_be_the_login_page() -> None:
    assert client(Login("secret")).get("/slipway/loginx").status_code == 401
    assert client(Login("secret")).get("/slipway/ui").status_code == 401


def test_a_session_opens_the_panel_and_logging_out_shuts_it() -> None:
    login = Login("secret")
    token = login.enter("me", "secret")
    panel = client(login)
    assert panel.get("/", headers={"cookie": f"{COOKIE}={token}"}).text == "there"
    assert panel.get("/", headers={"cookie": f"{COOKIE}=x{token}"}).status_code == 401
    login.leave(token)
    assert panel.get("/", headers={"cookie": f"{COOKIE}={token}"}).status_code == 401


def test_a_session_ends_by_itself() -> None:
    now = [0.0]
    login = Login("secret", lambda: now[0])
    token = login.enter("me", "secret")
    assert login.knows(token)
    now[0] = 8 * 24 * 3600.0
    assert not login.knows(token)


def test_wrong_passwords_are_slowed_down_more_and_more() -> None:
    now = [0.0]
    login = Login("secret", lambda: now[0])
    for _ in range(FREE_TRIES):
        assert login.enter("them", "guess") is None
    first = login.wait_s("them")
    assert first > 0
    assert login.enter("them", "secret") is None, "the right password counts only when it is waited for"
    assert login.wait_s("me") == 0
    now[0] += first
    assert login.enter("them", "guess") is None
    assert login.wait_s("them") > first
    now[0] += login.wait_s("them")
    assert login.enter("them", "secret") is not None
