"""Several methods: each is drawn and recorded as by itself, from one run of the model."""

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
from films import make_clip, read_film
from PIL import Image

from attnviz.batch import columns
from attnviz.cli import main
from attnviz.explanation import running
from attnviz.methods import METHODS as TABLE

CAT = str(Path(__file__).parents[2] / "sample_images" / "cat.jpg")
METHODS = ["attention", "rollout", "relevance", "legrad", "value-norm", "token-similarity"]
ALL = [word for method in METHODS for word in ("--method", method)]
SIZE = ["--size", "32"]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for what a batch keeps for itself."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".attnviz" not in path.parts
    }


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A note for each time that pictures are shown to a model."""
    found: list[object] = []
    real = running.ModelInputs.alone

    def alone(self: Any, number: int) -> Any:
        found.append(number)
        return real(self, number)

    monkeypatch.setattr(running.ModelInputs, "alone", alone)
    return found


@pytest.mark.parametrize("command", ["show", "stats"])
def test_each_is_written_as_by_itself_from_one_run(
    command: str, tmp_path: Path, runs: list[object]
) -> None:
    where, score = ["-q", "20,20", "-q", "cls"], ["--target", "mammal"]
    options = [*SIZE, "--npz", "--quiet"]
    line = [command, CAT, *options, *where, *score, *ALL, "-o", str(tmp_path / "all")]
    assert main(line) == 0
    assert len(runs) == 1
    for method in METHODS:
        alone = [*options, *(where if TABLE[method].asks else [])]
        alone += score if TABLE[method].scored else []
        out = tmp_path / method
        assert main([command, CAT, *alone, "--method", method, "-o", str(out)]) == 0
        one, other = contents(tmp_path / "all" / "cat.jpg" / method), contents(out / "cat.jpg")
        assert one.keys() == other.keys()
        for name, data in other.items():
            assert same(name, one[name], data), (method, name)
    assert {path.name for path in (tmp_path / "all" / "cat.jpg").iterdir()} == set(METHODS)


def same(name: str, one: bytes, other: bytes) -> bool:
    """Equal bytes, but that a run of which gradients are taken may round the last digits apart."""
    if name.endswith((".png", ".npz", ".json")):
        return bool(one == other or close(_read(name, one), _read(name, other)))
    rows = [list(csv.reader(io.StringIO(each.decode()))) for each in (one, other)]
    return close(*([[_number(cell) for cell in row] for row in each] for each in rows))


def _read(name: str, data: bytes) -> Any:
    if name.endswith(".json"):
        return json.loads(data)
    if name.endswith(".npz"):
        return {key: array.tolist() for key, array in np.load(io.BytesIO(data)).items()}
    return (np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) // 8).tolist()


def _number(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell


def close(one: Any, other: Any) -> bool:
    """The same data, its numbers within a thousandth."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close, one, other))
    if isinstance(one, float):
        return bool(np.isclose(one, other, rtol=1e-3, atol=1e-6))
    return bool(one == other)


def test_heads_are_for_the_methods_that_have_some(capfd: pytest.CaptureFixture[str]) -> None:
    asked = ["stats", CAT, *SIZE, "--json", "--heads", "0,3", "--method", "attention"]
    assert main([*asked, "--method", "rollout"]) == 0
    records = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [[head["head"] for head in each["heads"]] for each in records] == [[0, 3], [None]]


def test_rows_of_all_methods_stand_under_one_header(capfd: pytest.CaptureFixture[str]) -> None:
    asked = ["-q", "20,20", "-q", "cls", "--target", "mammal", "--target", "5", "--csv"]
    assert main(["stats", CAT, *SIZE, *asked, *ALL[:6]]) == 0
    rows = list(csv.DictReader(io.StringIO(capfd.readouterr().out)))
    assert list(rows[0]) == list(columns.columns())
    methods = [row["method"] for row in rows]
    assert methods == ["attention"] * 16 + ["rollout"] * 2 + ["relevance"] * 4
    assert [row["target_label"] for row in rows[-4:]] == ["mammal", "flower"] * 2
    assert {row["target_label"] for row in rows[:18]} == {""}


def test_the_tables_follow_one_another(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", CAT, *SIZE, "--method", "rollout", "--method", "attention"]) == 0
    out = capfd.readouterr().out
    assert 0 <= out.index("rollout") < out.index("attention")
    assert out.count("check: verified") == 2


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        pictures.noise(40, 30, number).save(folder / f"{number}.png")
    return folder


def test_a_batch_has_a_folder_and_a_record_for_each(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    line = ["batch", str(photos), *SIZE, "--method", "attention", "--method", "rollout"]
    assert main([*line, "-o", str(out), "--npz", "--aggregate", "--json"]) == 0
    printed = sorted(capfd.readouterr().out.splitlines())
    lines = (out / "stats.jsonl").read_text().splitlines()
    assert sorted(lines) == printed
    records = [json.loads(each) for each in lines]
    names = [(Path(each["image"]["path"]).name, each["method"]) for each in records]
    assert names == [(f"{n}.png", m) for n in range(3) for m in ("attention", "rollout")]
    for name, method in names:
        folder = out / name / method
        assert {path.name for path in folder.iterdir()} == {"maps.npz", "sheet.png", "stats.json"}
        assert json.loads((folder / "stats.json").read_text())["method"] == method
    manifest = [json.loads(each) for each in (out / "manifest.jsonl").read_text().splitlines()]
    assert [each["folder"] for each in manifest] == ["0.png", "1.png", "2.png"]
    rows = [json.loads(each) for each in (out / "aggregate.jsonl").read_text().splitlines()]
    assert {(row["method"], row["pictures"]) for row in rows} == {("attention", 3), ("rollout", 3)}


def test_the_gallery_has_a_tile_for_each(photos: Path, tmp_path: Path) -> None:
    from attnviz.batch.entries import read_entries  # noqa: PLC0415

    out = tmp_path / "out"
    line = ["batch", str(photos), *SIZE, "--method", "rollout", "--method", "mass", "--quiet"]
    assert main([*line, "-o", str(out)]) == 0
    entries = read_entries(out, out / "stats.jsonl", out / "manifest.jsonl")
    assert entries.names == [f"{n}.png · {m}" for n in range(3) for m in ("rollout", "mass")]
    assert entries.sheets == [
        f"{n}.png/{m}/sheet.png" for n in range(3) for m in ("rollout", "mass")
    ]
    assert "rollout, mass" in entries.run
    columns_of = dict(entries.matrix.columns())
    assert columns_of
    for (number, *_), values in columns_of.items():
        known = [i for i, value in enumerate(values) if not np.isnan(value)]
        # Statistics of heads are those of `mass`, which merges none; of maps both have some.
        assert known in ([1, 3, 5], list(range(6)))
        assert number >= 0


def test_a_broken_off_batch_goes_on_and_ends_with_the_same_bytes(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = ["batch", str(photos), *SIZE, "--method", "attention", "--method", "rollout", "--quiet"]
    assert main([*line, "-o", str(tmp_path / "whole")]) == 0
    part = tmp_path / "part"
    assert main([*line, "-o", str(part)]) == 0
    capfd.readouterr()
    (part / "1.png" / "rollout" / "sheet.png").unlink()
    assert main([*line, "-o", str(part)]) == 0
    again = {Path(path).parent.parent.name for path in capfd.readouterr().out.splitlines()}
    assert again >= {"1.png"}
    assert not again & {"0.png", "2.png"}
    assert contents(part) == contents(tmp_path / "whole")
    # Fewer methods leave nothing of those that are gone.
    assert main([*line[:-3], "--quiet", "-o", str(part)]) == 0
    assert not (part / "0.png" / "rollout").exists()
    assert (part / "0.png" / "sheet.png").is_file()


def test_the_journal_keeps_all_records_until_the_end(photos: Path, tmp_path: Path) -> None:
    """What a killed run left: entries with their records in the journal, and no stats.jsonl."""
    from attnviz.batch.jobs import read_line  # noqa: PLC0415
    from attnviz.batch.ledger import Ledger  # noqa: PLC0415

    out = tmp_path / "out"
    line = ["batch", str(photos), *SIZE, "--method", "attention", "--method", "rollout", "--quiet"]
    assert main([*line, "-o", str(out)]) == 0
    lines = (out / "stats.jsonl").read_bytes().splitlines(keepends=True)
    journal = out / ".attnviz" / "journal.jsonl"
    entries = [read_line(each)[0] for each in journal.read_bytes().splitlines(keepends=True)]
    records = [lines[2 * n] + lines[2 * n + 1] for n in range(3)]
    full = [entry.line(record) for entry, record in zip(entries, records, strict=True)]
    journal.write_bytes(b"".join(full))
    for each, entry, record in zip(full, entries, records, strict=True):
        assert read_line(each) == (entry, record)
        assert json.loads(each)["record"] == json.loads(record.splitlines()[-1])
    (out / "stats.jsonl").unlink()
    with Ledger(out) as opened:
        opened.finish([entry.path for entry in entries])
    assert (out / "stats.jsonl").read_bytes() == b"".join(lines)


def test_arrays_alone_are_those_beside_the_sheet(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = ["batch", str(photos), *SIZE, "--npz"]
    drawn, bare = tmp_path / "drawn", tmp_path / "bare"
    assert main([*line, "-o", str(drawn)]) == 0
    assert main([*line, "-o", str(bare), "--pictures", "none"]) == 0
    for number in range(3):
        (alone,) = (bare / f"{number}.png").iterdir()
        assert alone.name == "maps.npz"
        assert alone.read_bytes() == (drawn / f"{number}.png" / "maps.npz").read_bytes()
    capfd.readouterr()
    assert main([*line, "-o", str(bare), "--pictures", "none"]) == 0
    assert "3 done (3 before)" in capfd.readouterr().err
    assert main(["batch", str(photos), *SIZE, "-o", str(bare), "--pictures", "none"]) == 0
    assert not (bare / "0.png").exists()


def test_a_clip_has_a_film_for_each_method(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    clip = make_clip(tmp_path / "in.mp4", 5)
    line = ["video", str(clip), *SIZE, "-m", "random", "--heads", "1", "-o"]
    both = ["--method", "attention", "--method", "received"]
    assert main([*line, str(tmp_path / "out.mp4"), *both, "--json"]) == 0
    records = [json.loads(each) for each in capfd.readouterr().out.splitlines()]
    assert [(each["method"], each["moment"]["frame"]) for each in records] == [
        (method, frame) for method in ("attention", "received") for frame in range(5)
    ]
    assert {path.name for path in tmp_path.iterdir()} == {
        "in.mp4", "out-attention.mp4", "out-received.mp4",
    }  # fmt: skip
    for method in ("attention", "received"):
        assert main([*line, str(tmp_path / "one.mp4"), "--method", method, "--json"]) == 0
        alone = [json.loads(each) for each in capfd.readouterr().out.splitlines()]
        mine = [each for each in records if each["method"] == method]
        assert [each["heads"][0]["scale"] for each in mine] == [
            each["heads"][0]["scale"] for each in alone
        ]
        one, other = (read_film(tmp_path / n) for n in ("one.mp4", f"out-{method}.mp4"))
        # The codec's own choices differ a little from run to run.
        apart = np.abs(np.array(one.pictures, dtype=int) - np.array(other.pictures))
        assert apart.mean() < 4
    assert main([*line, str(tmp_path / "o.mp4"), *both, "--csv", "--scale", "0:1"]) == 0
    rows = list(csv.DictReader(io.StringIO(capfd.readouterr().out)))
    assert [row["frame"] for row in rows] == [str(n) for n in range(5)] * 2
    assert main([*line, str(tmp_path / "o.mp4"), *both]) == 0
    assert capfd.readouterr().out.count("mean of 5 frames") == 2


def test_what_attnviz_drew_is_no_picture_of_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(CAT, "cat.jpg")
    pictures.noise(20, 20).save("mine.png")
    assert main(["show", "cat.jpg", *SIZE, "--quiet"]) == 0
    assert main(["show", "cat.jpg", *SIZE, "--quiet", *ALL[:4], "-o", "several"]) == 0
    assert main(["stats", "cat.jpg", *SIZE, "--quiet", "-o", "numbers"]) == 0
    assert main(["compare", "cat.jpg", *SIZE, "--quiet", "--layers", "4,5"]) == 0
    assert main(["batch", "cat.jpg", *SIZE, "--quiet", "-o", "earlier"]) == 0
    pictures.noise(20, 20, 1).save("attnviz-out/cat.jpg/holiday.png")
    capfd.readouterr()
    assert main(["batch", ".", *SIZE, "-o", "out", "--json"]) == 0
    out, err = capfd.readouterr()
    found = {json.loads(line)["image"]["path"] for line in out.splitlines()}
    assert found == {"./cat.jpg", "./mine.png", "./attnviz-out/cat.jpg/holiday.png"}
    assert "that attnviz wrote itself are left out" in err
    assert main(["batch", "attnviz-out/cat.jpg/sheet.png", *SIZE, "-o", "named", "--json"]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 1
