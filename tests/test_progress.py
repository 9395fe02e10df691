"""The progress bar: on stderr, for what takes long, whether or not that is a terminal."""

import time

import pytest

from tcdecomp import _progress


def slow(count, seconds):
    for step in range(count):
        time.sleep(seconds)
        yield step


@pytest.mark.parametrize("patience", [0.02, 1e9])
def test_a_file_sees_the_progress_of_what_takes_long(patience, monkeypatch, capsys):
    monkeypatch.setattr(_progress, "PATIENCE", patience)
    assert list(_progress.progress(slow(5, 0.03), "images")) == list(range(5))
    out, err = capsys.readouterr()
    assert out == ""
    assert ("images: " in err) == (patience < 1)


def test_the_length_is_known_where_there_is_one(monkeypatch, capsys):
    monkeypatch.setattr(_progress, "PATIENCE", 0)
    for _ in _progress.progress(range(4), "images"):
        time.sleep(0.01)
    assert "/4 [" in capsys.readouterr().err
