"""The CSV files of a run: flushed as they come, and readable wherever they were cut."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import pytest

from flowbench.store import csv_rows

FULL = b"step,mean,seconds\n150,12.5,0.25\n300,-1e-07,0.5\n450,nan,0.75\n"
STEPS = [150, 300, 450]


def test_rows_are_written_at_once(tmp_path: Path) -> None:
    path = tmp_path / "evals.csv"
    writer = csv_rows.RowWriter(path, ["step", "mean"])
    assert path.read_bytes() == b"step,mean\n"
    writer.append({"step": 150, "mean": 12.5})
    assert path.read_bytes() == b"step,mean\n150,12.5\n"
    writer.append({"mean": 0.1 + 0.2, "step": 300})
    assert path.read_bytes() == b"step,mean\n150,12.5\n300,0.30000000000000004\n"
    writer.close()


def test_numbers_are_read_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    writer = csv_rows.RowWriter(path, ["step", "mean", "q"])
    values = [1 / 3, 1e-300, -123456.789012345678, math.inf, math.nan]
    for step, value in enumerate(values):
        writer.append({"step": step, "mean": value} if step else {"step": step, "mean": value, "q": 1.0})
    writer.close()
    frame = csv_rows.read(path)
    assert frame["step"].tolist() == [0, 1, 2, 3, 4]
    assert frame["mean"].tolist()[:4] == values[:4]
    assert math.isnan(frame["mean"][4])
    assert frame["q"].isna().tolist() == [False, True, True, True, True]


def test_value_without_a_column_is_rejected(tmp_path: Path) -> None:
    writer = csv_rows.RowWriter(tmp_path / "x.csv", ["step"])
    with pytest.raises(ValueError, match="no column for entropy, loss"):
        writer.append({"step": 1, "loss": 2.0, "entropy": 1.0})
    writer.close()
    assert (tmp_path / "x.csv").read_text() == "step\n"


def test_file_of_an_earlier_version_keeps_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "evals.csv"
    path.write_bytes(b"step,mean\n1,2.0\n2,3.0\n")
    writer = csv_rows.RowWriter(path, ["step", "mean", "success"], size=16)
    writer.append({"step": 2, "mean": 4.0, "success": 0.5})
    with pytest.raises(ValueError, match="no column for failure"):
        writer.append({"step": 3, "failure": 0.5})
    writer.close()
    assert path.read_bytes() == b"step,mean\n1,2.0\n2,4.0\n"
    with pytest.raises(ValueError, match="other columns"):
        csv_rows.RowWriter(path, ["step", "mean", "score"], size=16)


def test_file_is_overwritten_without_a_size(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(FULL)
    csv_rows.RowWriter(path, ["step"]).close()
    assert path.read_text() == "step\n"


@pytest.mark.parametrize("length", range(len(FULL) + 1))
def test_file_cut_at_any_byte_gives_its_complete_lines(tmp_path: Path, length: int) -> None:
    path = tmp_path / "evals.csv"
    path.write_bytes(FULL[:length])
    frame = csv_rows.read(path)
    whole = FULL[:length].count(b"\n")
    assert len(frame) == max(0, whole - 1)
    if whole:
        assert list(frame.columns) == ["step", "mean", "seconds"]
        assert frame["step"].tolist() == STEPS[: whole - 1]
        assert frame["mean"].tolist()[:2] == [12.5, -1e-07][: whole - 1]


def test_no_file_is_no_rows(tmp_path: Path) -> None:
    assert csv_rows.read(tmp_path / "none.csv").empty


@pytest.mark.parametrize(
    "data",
    [b"\n", b"\n\n\n", b"\x00\x00\x00\n", b"\xff\xfe\x00\n\x80\n", b'a,"b\nc,d\n', b"step\r\n1\r\n",
     b"step,step\n1,2\n", b"<html>\n<body>\n", b"x" * 200_000 + b"\n", b"step,mean\n" + b"9" * 200_000 + b",1\n"],
)  # fmt: skip
def test_noise_is_read_or_unreadable(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(data)
    with contextlib.suppress(csv_rows.Unreadable):
        csv_rows.read(path)


def test_table_with_a_repeated_column_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"step,step\n1,2\n")
    for read in (lambda: csv_rows.read(path), csv_rows.Tail(path, ("step", "mean")).update):
        with pytest.raises(csv_rows.Unreadable, match=r"x\.csv: .*two columns"):
            read()


def test_damaged_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"step,mean\n1,2\n3\n4,5,6\n\x00\x00\x00\n7,word\n8,9\n")
    frame = csv_rows.read(path)
    assert frame["step"].tolist() == [1, 7, 8]
    assert frame["mean"].isna().tolist() == [False, True, False]


# A file that grows


def tail(path: Path) -> csv_rows.Tail:
    return csv_rows.Tail(path, ("step", "mean"))


def seen(of: csv_rows.Tail) -> list[tuple[float, ...]]:
    of.update()
    return list(of.rows)


def test_tail_reads_new_rows(tmp_path: Path) -> None:
    path = tmp_path / "evals.csv"
    of = tail(path)
    assert seen(of) == []
    path.write_text("step,mean,std\n1,2,0\n3,4")
    assert seen(of) == [(1, 2)]
    with path.open("a") as file:
        file.write(",0\n5,6,0\n")
    assert seen(of) == [(1, 2), (3, 4), (5, 6)]
    path.unlink()
    assert seen(of) == []


def test_tail_reads_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "evals.csv"
    path.write_text("step,mean\n1,2\n3,4\n")
    of = tail(path)
    seen(of)
    read: list[str] = []
    monkeypatch.setattr(csv_rows, "_table", lambda text, path: read.append(text) or (["step", "mean"], []))
    seen(of)
    assert read == []
    with path.open("a") as file:
        file.write("5,6\n")
    seen(of)
    assert read == ["step,mean\n5,6\n"]


@pytest.mark.parametrize("taken_back", ["step,mean\n1,2\n", "step,mean\n", "", "st"])
def test_tail_of_a_file_that_was_cut(tmp_path: Path, taken_back: str) -> None:
    path = tmp_path / "evals.csv"
    path.write_text("step,mean\n1,2\n3,4\n5,6\n")
    of = tail(path)
    seen(of)
    path.write_text(taken_back)
    assert seen(of) == ([(1, 2)] if "1,2" in taken_back else [])
    path.write_text("step,mean\n1,2\n3,7\n5,8\n7,9\n")  # and longer than it was before the next look
    assert seen(of) == [(1, 2), (3, 7), (5, 8), (7, 9)]


def test_tail_of_a_long_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_rows, "TAIL_BYTES", 10)
    path = tmp_path / "evals.csv"
    path.write_text("step,mean\n" + "".join(f"{k},{k}\n" for k in range(10, 99)))
    of = tail(path)
    assert seen(of) == [(98, 98)]
    with path.open("a") as file:
        file.write("".join(f"{k},{k}\n" for k in range(100, 200)))
    assert seen(of) == [(199, 199)]
