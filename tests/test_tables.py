"""READMEs show what their records say, and tables are rendered from records."""

import json
import re

import pytest
import tables

ROW = {
    "benchmark": "inference", "case": "batch of 1", "name": "ours", "unit": "µs", "median": 12.44,
    "quartiles": [12, 13], "speedup": None, "speedup_quartiles": None, "goal": None, "note": "",
}  # fmt: skip
PEER = ROW | {
    "name": "a peer", "median": 1234.5, "speedup": 1.5, "speedup_quartiles": [1.25, 2], "goal": 2,
}  # fmt: skip
CRASHED = ROW | {"name": "another", "median": None, "note": "crashed: signal 11"}
CLIENT = {"client": "LiteRT", "how": "XNNPACK", "versions": {"litert": "2"}}
RECORDS = {
    "tests/benchmarks/results.json": {
        "machine": {"cpu": "A CPU", "cores": 2, "python": "3.11", "versions": {"numpy": "2.0"}},
        "rows": [ROW, PEER, CRASHED, ROW | {"benchmark": "scale"}],
    },
    "tests/benchmarks/clients.json": {
        "rows": [
            CLIENT
            | {
                "file": "a.tflite",
                "other_classes": 1,
                "images_that_differ": 20,
                "largest_difference": 3.0,
            },
            CLIENT | {"file": "b.tflite", "note": "does not run: op missing"},
            {"client": "MediaPipe", "note": "refuses it"},
        ]
    },
}


@pytest.fixture
def root(tmp_path):
    """A repository with records of its own."""
    for name, record in RECORDS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(record))
    (tmp_path / "exported").symlink_to(tables.ROOT / "exported")
    return tmp_path


@pytest.mark.parametrize("path", tables.READMES, ids=lambda path: path.parent.name)
def test_a_readme_shows_what_its_records_say(path):
    text = path.read_text()
    assert text.count("\n<!-- table: ") == len(tables.MARKED.findall(text))
    assert text == tables.render(text), "run `make tables`"


# The READMEs hold the other kinds of tables.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "inference",
            "| case |  | median | speed-up (quartiles) | goal | note |\n"
            "| --- | --- | ---: | ---: | ---: | --- |\n"
            "| batch of 1 | ours | 12.4 µs |  |  |  |\n"
            "| batch of 1 | a peer | 1,234 µs | 1.50 (1.25 to 2.00) | 2, missed |  |\n"
            "| batch of 1 | another |  |  |  | crashed: signal 11 |",
        ),
        ("scale", "| case |  | median |\n| --- | --- | ---: |\n| batch of 1 | ours | 12.4 µs |"),
        (
            "result",
            "| model | accuracy | 95 % interval | McNemar p | bytes |\n"
            "| --- | ---: | ---: | ---: | ---: |\n"
            "| Keras, float32 | 99.76% | 99.64 to 99.84 % |  | 283,536 |\n"
            "| int8, PTQ: `lenet5_int8_ptq.tflite` | 99.76% | 99.64 to 99.84 % | 1.00 | 73,498 |\n"
            "| int8, QAT: `lenet5_int8.tflite` | 99.73% | 99.61 to 99.81 % | 0.25 | 76,970 |",
        ),
        (
            "clients",
            "| client | versions | `a.tflite` | `b.tflite` | note |\n"
            "| --- | --- | ---: | ---: | --- |\n"
            "| LiteRT, XNNPACK | litert 2 | 1 / 20 / 3 | does not run |  |\n"
            "| MediaPipe |  |  |  | refuses it |",
        ),
    ],
)
def test_a_table_is_rendered_from_its_record(root, name, expected):
    assert tables.table(name, root) == expected


def test_settings_show_every_default_and_meaning():
    text = tables.table("settings", tables.ROOT)
    assert "| `batch_size` | `256` | images in a training step, over all devices. |" in text
    assert '| `optimizer` | `"adamw"` | "adamw" (decoupled weight decay)' in text
    assert "| `fallback` | – | dataset to use" in text
    assert not re.search(r"\| +\|$", text, re.MULTILINE), "a setting has no meaning"


def test_marked_places_alone_are_rendered(root):
    text = "a\n<!-- table: machine -->\nold\nlines\n<!-- end -->\nb\n"
    filled = text.replace("old\nlines", "A CPU, 2 cores; Python 3.11, numpy 2.0.")
    assert tables.render(text, root) == filled
    assert tables.render(filled, root) == filled


@pytest.mark.parametrize("name", ["no such", "torture"])
def test_a_table_without_a_record_is_an_error(root, name):
    with pytest.raises(LookupError, match="no record"):
        tables.render(f"<!-- table: {name} -->\n<!-- end -->", root)
