"""The panel's address: taken before anything is begun, and where it cannot be had, words for it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.__main__ import control as make_control
from app.listening import address, listening
from app.settings import Settings
from backends.errors import BadInput, Conflict
from scripts.bench.engine_server import free_ports
from tests.test_cli import slipway


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of loopback on which another program listens."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def at(home: Path, port: int, host: str = "127.0.0.1") -> Settings:
    return Settings(home=home, host=host, port=port)


def test_where_the_port_is_taken_nothing_is_launched_and_it_is_said_what_to_do(home: Path, taken: int) -> None:
    done = slipway("panel", "--demo", "--port", str(taken), home=home)
    assert done.returncode == Conflict.exit_code
    assert done.stdout == ""
    for word in (str(taken), "another program", f"--port {taken + 1}", f"SLIPWAY_PORT={taken + 1}"):
        assert word in done.stderr
    assert "Errno" not in done.stderr
    assert make_control({"home": str(home)}).runs() == ()


def test_the_error_is_about_the_port_in_both_languages(home: Path, taken: int) -> None:
    with pytest.raises(Conflict) as refused, listening(at(home, taken)):
        pass
    assert refused.value.field == "port"
    assert "其他程序" in refused.value.of("zh")
    assert "another program" in refused.value.of("en")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_second_panel_of_the_same_data_folder_is_told_where_the_first_is(home: Path, host: str) -> None:
    (port,) = free_ports(1)
    with listening(at(home, port)):
        with pytest.raises(Conflict) as refused, listening(at(home, port, host)):
            pass
        assert f"runs already: http://127.0.0.1:{port}" in refused.value.of("en")
        assert "已在运行" in refused.value.of("zh")
        assert f"--port {port + 1}" in refused.value.of("en")


def test_a_panel_of_another_data_folder_is_another_program(home: Path, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with (
        listening(at(home, port)),
        pytest.raises(Conflict, match="another program"),
        listening(at(tmp_path / "other", port)),
    ):
        pass


def test_a_panel_that_ended_leaves_its_address_free(home: Path) -> None:
    (port,) = free_ports(1)
    for _ in range(2):
        with listening(at(home, port)) as (one,):
            assert socket.create_connection(one.getsockname(), timeout=5).close() is None
    with socket.create_server(("127.0.0.1", port)), pytest.raises(Conflict, match="another program"):
        listening(at(home, port)).__enter__()


@pytest.mark.parametrize("host", ["192.0.2.1", "a..b"])
def test_an_address_that_this_machine_lacks_is_told_by_name(home: Path, host: str) -> None:
    with pytest.raises(BadInput, match=host) as refused, listening(at(home, 7860, host)):
        pass
    assert refused.value.field == "host"


def test_a_name_is_listened_to_at_those_of_its_addresses_that_are_here(home: Path, monkeypatch) -> None:
    places = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in ("127.0.0.1", "192.0.2.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_asked, **_how: places)
    with listening(at(home, 7860, "localhost")) as sockets:
        assert [one.getsockname()[0] for one in sockets] == ["127.0.0.1"]


def test_a_port_that_belongs_to_root_is_told(home: Path, monkeypatch) -> None:
    def refuse(*_asked: object, **_how: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(BadInput, match="80") as refused, listening(at(home, 80)):
        pass
    assert refused.value.field == "port"


def test_the_address_that_is_shown_can_be_opened() -> None:
    assert address("0.0.0.0", 7860) == "http://127.0.0.1:7860"
    assert address("::", 7860) == "http://[::1]:7860"
    assert address("gpu-7", 7860) == "http://gpu-7:7860"
