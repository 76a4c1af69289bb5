"""Log text, as it is shown: whole lines by byte cursor, fit for a page whatever a program wrote."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from backends.logs import LONGEST_LINE, last_lines, read, shown


def test_a_line_is_held_back_until_it_ends(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\ntw")
    page = read(log)
    assert page.lines == ("one",)
    log.write_bytes(b"one\ntwo\n")
    assert read(log, page.cursor).lines == ("two",)


def test_the_last_line_without_end_is_shown_when_nothing_more_comes(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\ntwo")
    page = read(log, ended=True)
    assert page.lines == ("one", "two")
    assert page.ended


def test_pages_of_any_size_give_the_whole_log_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    lines = [f"line {number} {'x' * (number % 50)}" for number in range(500)]
    log.write_text("\n".join(lines) + "\n")
    for limit in (100, 777, 100_000):
        seen: list[str] = []
        cursor = 0
        while (page := read(log, cursor, limit, ended=True)).cursor != cursor:
            seen += page.lines
            cursor = page.cursor
        assert seen == lines


def test_a_span_is_read_as_if_it_were_the_whole_file(tmp_path: Path) -> None:
    log = tmp_path / "log"
    parts = [b"one\nhalf", b"\r50%" * 20_000, b"two\n", b"x" * 100_000, b"after\n"]
    log.write_bytes(b"".join(parts))
    begin = 0
    for part in parts:
        alone, end = tmp_path / "alone", begin + len(part)
        alone.write_bytes(part)
        for limit in (100, 262_144):
            seen, own = read(log, 0, limit, True, (begin, end)), read(alone, 0, limit, True)
            while seen.lines or own.lines:
                assert (seen.lines, seen.cursor - begin, seen.ended) == (own.lines, own.cursor, own.ended)
                seen = read(log, seen.cursor, limit, True, (begin, end))
                own = read(alone, own.cursor, limit, True)
            assert seen.cursor == end
        begin = end


@given(
    st.lists(
        st.text(alphabet=st.characters(blacklist_characters="\n\r", blacklist_categories=("Cs", "Cc"))), max_size=20
    )
)
def test_text_in_any_script_survives(tmp_path_factory, lines: list[str]) -> None:
    log = tmp_path_factory.mktemp("log") / "log"
    log.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    assert list(read(log, ended=True).lines) == [shown(line) for line in lines]


def test_a_progress_bar_is_shown_as_it_stands_now() -> None:
    assert shown("10%\r50%\r100%") == "100%"
    assert shown("done\r") == "done"


def test_colours_and_control_characters_are_taken_out() -> None:
    assert shown("\x1b[31mred\x1b[0m \x1b]0;title\x07plain") == "red plain"
    assert shown("a\x00b\x07c") == "a\ufffdb\ufffdc"


def pages(log: Path, limit: int = 262_144, ended: bool = True) -> list[str]:
    """Every line, page by page."""
    cursor, seen = 0, list[str]()
    while (page := read(log, cursor, limit, ended=ended)).cursor != cursor:
        seen += page.lines
        cursor = page.cursor
    return seen


def test_a_line_of_five_megabytes_is_one_line_shown_by_its_head(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"before\n" + b"x" * 5_000_000 + b"\nafter\n")
    assert pages(log) == ["before", f"{'x' * LONGEST_LINE} … (+{5_000_000 - LONGEST_LINE:,})", "after"]


def test_a_long_line_that_still_grows_is_shown_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 300_000)
    head = read(log)
    assert len(head.lines) == 1 and head.cursor == 300_000
    with log.open("ab") as file:
        file.write(b"x" * 300_000)
    more = read(log, head.cursor)
    assert (more.lines, more.cursor) == ((), 600_000)
    with log.open("ab") as file:
        file.write(b"x\nafter\n")
    assert read(log, more.cursor).lines == ("after",)


def test_a_bar_that_has_no_line_end_yet_is_the_rest_of_the_page(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes("one\n10%\r50% \x1b[32m█".encode())
    page = read(log)
    assert (page.lines, page.rest, page.cursor) == (("one",), "50% █", 4)
    assert read(log, ended=True).lines == ("one", "50% █") and read(log, ended=True).rest == ""


def test_bytes_that_are_no_text_do_not_stop_the_reader(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"\xff\xfe\x00\n ok\n")
    assert read(log).lines[1] == " ok"


def test_a_log_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    assert read(tmp_path / "none").lines == ()
    assert last_lines(tmp_path / "none") == ()


def test_the_last_lines_are_the_last_that_say_something(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("a\n\nb\n\n\n")
    assert last_lines(log, 1) == ("b",)
