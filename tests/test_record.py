"""Records are facts that survive: equal when read back, whole after torn writes, complete under concurrent writers."""

import hashlib
import json
import math
import platform
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from art_lowrank import record as record_module
from art_lowrank.record import Record, append, pack, read, unpack, versions


def make(**changes: object) -> Record:
    fields = {
        "kind": "robustness",
        "model": "digits-cnn",
        "data": "digits[:100]",
        "attack": "lowrank-pgd[power]",
        "seed": 0,
        "n": 100,
        "settings": {"eps": 0.5, "rank": 3, "shape": [1, 8, 8]},
        "values": {"accuracy": 0.53, "held": pack([True] * 100)},
        "volatile": {"seconds": 1.25},
        "versions": {"torch": "2.15.0"},
    }
    return Record(**(fields | changes))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "folder" / "records.jsonl"


def write(path: Path, text: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(text)


def line_of(record: Record, scratch: Path) -> bytes:
    append(scratch, record)
    return scratch.read_bytes()


def test_what_is_appended_is_read_back_equal_and_in_order(path: Path) -> None:
    records = [make(seed=seed) for seed in (None, 0, 1)]
    for record in records:
        append(path, record)
    assert read(path) == records
    assert path.read_bytes().count(b"\n") == 3


def test_id_is_what_was_asked_not_what_came_out() -> None:
    one = make()
    assert one.id == make(values={}, volatile={}, versions={}).id
    for change in ({"seed": 1}, {"n": 99}, {"attack": "lora-pgd[paper]"}, {"settings": {"eps": 0.25}}, {"kind": "x"}):
        assert make(**change).id != one.id
    assert make(settings={"shape": (1, 8, 8), "rank": 3.0, "eps": 0.5}).id == one.id
    # Worked by hand: ids stand in published files, so the same question must keep its id.
    asked = (
        '{"attack":"lowrank-pgd[power]","data":"digits[:100]","kind":"robustness","model":"digits-cnn","n":100,'
        '"schema":1,"seed":0,"settings":{"eps":0.5,"rank":3,"shape":[1,8,8]}}'
    )
    assert one.id == hashlib.sha256(asked.encode()).hexdigest()[:12] == "27a6e058d469"


def test_a_record_is_a_value(path: Path) -> None:
    settings = {"layers": [1, 2]}
    record = make(settings=settings)
    settings["layers"].append(3)
    assert record.settings == {"layers": [1, 2]}
    with pytest.raises(FrozenInstanceError):
        record.seed = 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": {"loss": math.nan}}, "values.loss is nan"),
        ({"values": {"curve": [0.5, -math.inf]}}, r"values.curve\[1\] is -inf"),
        ({"volatile": {"gpu": {"seconds": math.inf}}}, "volatile.gpu.seconds is inf"),
        ({"values": {"accuracy": np.float32(0.5)}}, "values.accuracy is a float32.*float()"),
        ({"n": np.int64(5)}, "n is a int64"),
        ({"settings": {1: 2}}, "settings has the key 1"),
        ({"settings": [1]}, "settings must be a mapping"),
        ({"schema": 2}, "schema 2 is newer than 1.*upgrade"),
    ],
)
def test_what_json_cannot_hold_is_refused(path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        append(path, make(**change))
    assert not path.exists()


def test_nan_smuggled_in_later_is_refused_too(path: Path) -> None:
    record = make()
    record.values["accuracy"] = math.nan
    with pytest.raises(ValueError, match="JSON compliant"):
        append(path, record)
    assert not path.exists()


def test_every_torn_tail_is_skipped_and_never_glued_onto(tmp_path: Path) -> None:
    first, torn, last = make(seed=1), make(seed=2), make(seed=3)
    whole = line_of(torn, tmp_path / "scratch.jsonl")
    for cut in range(1, len(whole)):
        path = tmp_path / f"{cut}.jsonl"
        append(path, first)
        write(path, whole[:cut])
        kept = [first, torn] if cut == len(whole) - 1 else [first]  # only the newline is missing: nothing is lost
        assert read(path) == kept
        append(path, last)
        assert read(path) == [*kept, last]


def test_the_repair_itself_may_be_torn(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch.jsonl"
    write(scratch, b'{"kind": "ro')
    repair = line_of(make(seed=2), scratch)
    for cut in range(len(b'{"kind": "ro'), len(repair)):
        path = tmp_path / f"{cut}.jsonl"
        write(path, repair[:cut])
        append(path, make(seed=3))
        found = read(path)
        assert found[-1] == make(seed=3)
        assert len(found) == (2 if cut == len(repair) - 1 else 1)


def test_two_repairs_at_once_lose_nothing(path: Path) -> None:
    append(path, make(seed=1))
    line = path.read_bytes()
    write(path, b'{"torn' + b" #torn\n" + line + b" #torn\n" + line)
    assert len(read(path)) == 3


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (b'{"kind": "ro\n', "line 2 is not a record: "),
        (b"null\n", "line 2 is not a record: expected an object, got None"),
        (b'{"schema": 1}\n', "line 2 is not a record: .*missing"),
        (b'{"schema": 1, "colour": "red"}\n', "line 2 is not a record: .*colour"),
        (b'{"schema": 2, "colour": "red"}\n', "line 2 is not a record: schema 2 is newer than 1.*upgrade art-lowrank"),
        (b"{}\n", "line 2 is not a record: schema must be 1, got None"),
        (b"\xff\xfe\n", "line 2 is not a record"),
    ],
)
def test_damage_elsewhere_names_file_and_line(path: Path, damage: bytes, message: str) -> None:
    append(path, make())
    write(path, damage)
    for _ in range(2):  # as the last line, which ends in a newline and so is not torn, and then in the middle
        with pytest.raises(ValueError, match=message) as caught:
            read(path)
        assert str(path) in str(caught.value)
        append(path, make())


def test_nan_in_a_file_is_an_error(path: Path) -> None:
    append(path, make())
    write(path, path.read_bytes().replace(b"0.53", b"NaN"))
    with pytest.raises(ValueError, match=r"line 2 .*values\.accuracy is nan"):
        read(path)


def test_text_of_any_kind_stays_on_one_line(path: Path) -> None:
    record = make(model="a\nb\r\u2028\u00e9\U0001f600 #torn", settings={"\n": "\x00"})
    append(path, record)
    assert read(path) == [record]
    assert path.read_bytes().isascii()


def test_a_short_write_is_reported_and_the_next_append_recovers(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = record_module.os.write
    with monkeypatch.context() as patch:
        patch.setattr(record_module.os, "write", lambda descriptor, text: real(descriptor, text[:20]))
        with pytest.raises(OSError, match="only 20 of"):
            append(path, make(seed=1))
    append(path, make(seed=2))
    assert read(path) == [make(seed=2)]


WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from art_lowrank.record import Record, append
name, path, count = sys.argv[2], sys.argv[3], int(sys.argv[4])
print("ready", flush=True)
sys.stdin.readline()
for seed in range(count):
    append(path, Record("race", name, "none", "none", seed, 1, {}, {"held": name * 5000}))
"""


def test_processes_appending_at_once_lose_nothing(tmp_path: Path) -> None:
    path, root, count = tmp_path / "records.jsonl", Path(record_module.__file__).parents[1], 100
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(root), name, str(path), str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for name in "abcd"
    ]
    for writer in writers:
        assert writer.stdout.readline() == b"ready\n"
    for writer in writers:
        writer.stdin.write(b"go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    found = [(record.model, record.seed) for record in read(path)]
    assert sorted(found) == [(name, seed) for name in "abcd" for seed in range(count)]


def test_pack_by_hand() -> None:
    assert pack([True, False, True, False, True]) == "a8"
    assert unpack("a8", 5) == [True, False, True, False, True]
    assert (pack([]), unpack("", 0)) == ("", [])
    assert pack(np.array([0, 0, 0, 1, 1, 1, 1, 1], dtype=bool)) == "1f"


@given(st.lists(st.booleans(), max_size=200))
def test_unpack_inverts_pack(flags: list[bool]) -> None:
    assert unpack(pack(flags), len(flags)) == flags


@pytest.mark.parametrize(("text", "n"), [("a8", 4), ("a8", 9), ("a", -1), ("0x", 8), ("A8", 5), ("a9", 5), ("_8", 8)])
def test_unpack_refuses_text_that_pack_did_not_write(text: str, n: int) -> None:
    with pytest.raises(ValueError, match="flags"):
        unpack(text, n)


def test_pack_refuses_what_is_not_a_flag() -> None:
    with pytest.raises(ValueError, match=r"got 0\.7"):
        pack([True, 0.7])


def test_versions_leave_out_what_is_absent() -> None:
    assert versions("pytest", "no-such-distribution") == {
        "python": platform.python_version(),
        "pytest": metadata.version("pytest"),
    }


def test_records_are_plain_json_lines(path: Path) -> None:
    append(path, replace(make(), seed=None))
    assert json.loads(path.read_text())["seed"] is None
