"""READMEs show what their records say, and tables are rendered from records."""

import json

import figures
import pytest
import tables

from keras_lenet.evaluation.metrics import OodRejection, TestRejection

ROW = {
    "benchmark": "inference", "case": "batch of 1", "name": "ours", "unit": "µs", "median": 12.44,
    "quartiles": [12, 13], "speedup": None, "speedup_quartiles": None, "goal": None, "note": "",
}  # fmt: skip
PEER = ROW | {
    "name": "a peer", "median": 1234.5, "speedup": 1.5, "speedup_quartiles": [1.25, 2], "goal": 2,
}  # fmt: skip
CRASHED = ROW | {"name": "another", "median": None, "note": "crashed: signal 11"}
RECORDS = {
    "tests/benchmarks/results.json": {
        "machine": {"cpu": "A CPU", "cores": 2, "python": "3.11", "versions": {"numpy": "2.0"}},
        "rows": [ROW, PEER, CRASHED, ROW | {"benchmark": "scale"}],
    },
    "exported/metrics.json": figures.metrics(
        figures.score("m", correct=9973, accuracy=0.9973, interval=(0.996, 0.998), bytes=1234),
        images=10_000,
        rejection=figures.everything().rejection.model_copy(
            update={
                "ood": {"blank": OodRejection(total=4, rejected=3, rejected_by_threshold=0)},
                "test": TestRejection(total=1000, rejected=5),
            }
        ),
    ).model_dump(mode="json", exclude_none=True),
}


@pytest.fixture
def root(tmp_path):
    """A repository with records of its own."""
    for name, record in RECORDS.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(json.dumps(record))
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
            "metrics",
            "| model | correct of 10,000 | accuracy | 95 % | bytes |\n"
            "| --- | ---: | ---: | ---: | ---: |\n"
            "| m | 9,973 | 99.73% | 99.60 to 99.80 | 1,234 |",
        ),
        (
            "rejection",
            "| picture | rejected | of |\n| --- | ---: | ---: |\n"
            "| blank | 75.00% | 4 |\n| test digits | 0.50% | 1,000 |",
        ),
    ],
)
def test_a_table_is_rendered_from_its_record(root, name, expected):
    assert tables.table(name, root) == expected


def test_marked_places_alone_are_rendered(root):
    text = "a\n<!-- table: machine -->\nold\nlines\n<!-- end -->\nb\n"
    filled = text.replace("old\nlines", "A CPU, 2 cores; Python 3.11, numpy 2.0.")
    assert tables.render(text, root) == filled
    assert tables.render(filled, root) == filled


@pytest.mark.parametrize("name", ["no such", "torture"])
def test_a_table_without_a_record_is_an_error(root, name):
    with pytest.raises(LookupError, match="no record"):
        tables.render(f"<!-- table: {name} -->\n<!-- end -->", root)
