"""A wrong study file: one line that names file, line and key, what was found and what is allowed."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from jsm_queue.errors import SpecError, SpecFileError
from jsm_queue.spec import StudySpec, parse_spec, read_spec
from jsm_queue.specwords import PATTERNS

GOOD = """\
name: s
data:
  source: a.jsonl
bases:
  - name: b
    source: ./b
training:
  epochs: 3
stages:
  bases:
    n: 5
"""


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "study.yaml"


def told(path: Path, text: str | bytes) -> str:
    """What is said of a file, without its folder."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SpecError) as caught:
        read_spec(path)
    error = caught.value
    assert error.exit_code == 2 and error.status == 422 and error.fix
    assert "\n" not in str(error) and "Input should" not in str(error)
    return error.message.replace(f"{path.parent}/", "")


def swap(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def test_the_file_is_good(path: Path) -> None:
    path.write_text(GOOD, encoding="utf-8")
    assert isinstance(read_spec(path), StudySpec)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (swap("epochs: 3", "epochs: 0"), "study.yaml:8: training.epochs: 0 is too small: at least 1"),
        (swap("epochs: 3", "epochs: 1001"), "study.yaml:8: training.epochs: 1001 is too large: at most 1000"),
        (swap("epochs: 3", "dropout: 1"), "study.yaml:8: training.dropout: 1 is too large: below 1"),
        (swap("epochs: 3", "lr: 0"), "study.yaml:8: training.lr: 0 is too small: above 0"),
        (swap("epochs: 3", "lr: .nan"), "study.yaml:8: training.lr: found .nan, expected a finite number"),
        (swap("epochs: 3", "epochs: many"), 'study.yaml:8: training.epochs: found "many", expected a whole number'),
        (swap("epochs: 3", "epochs: 2.5"), "study.yaml:8: training.epochs: found 2.5, expected a whole number"),
        (swap("epochs: 3", "epochs: [3]"), "study.yaml:8: training.epochs: found a list, expected a whole number"),
        (swap("epochs: 3", "quantized: maybe"), 'study.yaml:8: training.quantized: found "maybe", expected true or f'),
        (swap("epochs: 3", "targets: 7"), "study.yaml:8: training.targets: found 7, expected all-linear or a list"),
        (swap("epochs: 3", "targets: [q, 7]"), "study.yaml:8: training.targets.1: found 7, expected text"),
        (
            swap("epochs: 3", "schedule: cosin"),
            'study.yaml:8: training.schedule: found "cosin", expected one of cosine, linear, constant '
            "(did you mean cosine?)",
        ),
        (swap("epochs: 3", "epoch: 3"), "study.yaml:8: training.epoch: unknown key, did you mean `epochs`?"),
        (swap("  epochs", "epochs"), "study.yaml:7: training: found nothing, expected keys with values"),
        (GOOD + "epochs: 3\n", "study.yaml:12: epochs: unknown key, did you mean `training.epochs`?"),
        (GOOD + "qqq: 3\n", "study.yaml:12: qqq: unknown key, known are: bases, data, decoding, judge"),
        (GOOD + "1: 3\n", "study.yaml:12: 1: found 1, expected a key that is text"),
        (GOOD + "null: 3\n", "found nothing, expected a key that is text"),
        (swap("    source: ./b\n", ""), "study.yaml:5: bases.0.source: is missing"),
        (swap("name: s\n", ""), "study.yaml:1: name: is missing"),
        (swap("name: s", "name: 12"), "study.yaml:1: name: found 12, expected text (put it in quotes)"),
        (swap("name: s", "name: a b"), 'study.yaml:1: name: found "a b", expected 1 to 64 letters'),
        (swap("name: s", 'name: "a\\0"'), "study.yaml:1: name: \"a\\u0000\" holds a character that no text has"),
        (GOOD + 'system_prompt: "\\ud800"', "study.yaml:12: system_prompt: "),
        (swap("n: 5", "n: 5\n    seeds: []"), "study.yaml:12: stages.bases.seeds: too few entries (0): at least 1"),
        (swap("n: 5", "n: 5\n    seeds: [1, -1]"), "study.yaml:12: stages.bases.seeds.1: -1 is too small: at least 0"),
        (swap("n: 5", "n: 5\n    seeds: [1, 2, 1]"), "study.yaml:12: stages.bases.seeds: 1 is there twice; each once"),
        (swap("n: 5", "n: 5\n    seeds: [true]"), "study.yaml:12: stages.bases.seeds.0: found true, expected a whole"),
        (swap("epochs: 3", "epochs: true"), "study.yaml:8: training.epochs: found true, expected a whole number"),
        (swap("epochs: 3", "lr: true"), "study.yaml:8: training.lr: found true, expected a number"),
        (swap("epochs: 3", 'quantized: "yes"'), 'study.yaml:8: training.quantized: found "yes", expected true or'),
        (swap("  - name: b", "  - name: b\n    train: 1"), "study.yaml:6: bases.0.train: found 1, expected true or f"),
        (swap("n: 5", "n: true"), "study.yaml:11: stages.bases.n: found true, expected a whole number"),
        (swap("epochs: 3", "targets: []"), "study.yaml:8: training.targets: an empty list leaves nothing to train"),
        (swap("a.jsonl", '""'), "study.yaml:3: data.source: too short (0 characters): at least 1"),
        (swap("a.jsonl", 'a.jsonl\n  bench: ""'), "study.yaml:4: data.bench: too short (0 characters): at least 1"),
        (swap("./b", '""'), "study.yaml:6: bases.0.source: too short (0 characters): at least 1"),
        (GOOD + f"decoding: {{context: {10**15}}}", "study.yaml:12: decoding.context: 1000000000000000 is too large"),
        (GOOD + "decoding:\n  max_new_tokens: 2048", "study.yaml:13: decoding: `max_new_tokens` (2048) must be below"),
        (swap("n: 5", "n: 0x" + "f" * 6000), "study.yaml:11: stages.bases.n: a huge number is too large"),
        # Contradictions keep their words and get the line of the key that they name
        (swap("  - name: b", "  - name: b\n    train: false"), "study.yaml:4: bases: stage `bases` ranks those"),
        (swap("  bases:\n    n: 5", "  bases: {}"), "study.yaml:9: stages: without `scale`, `bases.n` must say"),
        (
            swap("stages:", "stages:\n  scale: {base: b, sizes: [1, 2]}"),
            "study.yaml:12: stages: `bases.n` contradicts `scale`, whose verdict is n*; leave one out",
        ),
        (
            swap("stages:\n  bases:\n    n: 5", "stages:\n  bases: {}\n  scale: {base: c, sizes: [1, 2]}"),
            "study.yaml:11: stages.scale.base: 'c' is not one of the bases",
        ),
        # Merged keys and aliases have lines too
        (GOOD + "limits: &l {file_gb: 0}\n", "study.yaml:12: limits.file_gb: 0 is too small: above 0"),
        (swap("epochs: 3", "<<: {epochs: 0}"), "training.epochs: 0 is too small: at least 1"),
    ],
)  # fmt: skip
def test_a_wrong_key(path: Path, text: str, message: str) -> None:
    assert message in told(path, text)


def test_all_wrong_keys_at_once_in_the_order_of_their_lines(path: Path) -> None:
    wrong = GOOD.replace("epochs: 3", "epochs: 0").replace("n: 5", "n: x").replace("data:", "data:\n  sourc: b")
    lines = [part.split(" ")[0] for part in told(path, wrong).split("; ")]
    assert lines == ["study.yaml:3:", "study.yaml:9:", "study.yaml:12:"]


def test_of_very_many_the_first_are_told(path: Path) -> None:
    said = told(path, GOOD + "".join(f"k{i}: 1\n" for i in range(100)))
    assert said.endswith("; and 80 more") and len(said.split("; ")) == 21


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "study.yaml: found an empty file"),
        ("- a\n", "study.yaml: found a list"),
        ("text\n", 'study.yaml: found "text"'),
        (GOOD + "name: t\n", "study.yaml:12: the key `name` is there twice, first in line 1"),
        (swap("epochs: 3", "r: 1\n  r: 2"), "study.yaml:9: the key `r` is there twice, first in line 8"),
        (swap("epochs: 3", "targets: [a"), "study.yaml:9: not valid YAML: while parsing a flow sequence"),
        (swap("  epochs: 3", "\tepochs: 3"), "study.yaml:8: not valid YAML: while scanning"),
        (GOOD + "x: !!python/object:os.system y\n", "study.yaml:12: not valid YAML: could not determine a constructor"),
        (GOOD + "---\nb: 1\n", "study.yaml:12: not valid YAML: a second document begins (---)"),
        (GOOD + "? [a, b]\n: c\n", "study.yaml:12: not valid YAML"),
        (GOOD + "x: *nothing\n", "study.yaml:12: not valid YAML: found undefined alias 'nothing'"),
        (GOOD + "x: " + "9" * 5000, "study.yaml:12: not valid YAML: "),
        ("[" * 5000, "study.yaml: not valid YAML: it is nested too deeply"),
        ("name: \x01\n", "study.yaml:1: not valid YAML: it holds the character U+0001"),
        (b"name: s\nx: \xff\n", "study.yaml:2: not UTF-8 (byte 0xff)"),
        ("name: s\n".encode("utf-16"), "study.yaml:1: not UTF-8"),
        (b"x" * (2**20 + 1), "study.yaml: 1048577 bytes are no study"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_study(path: Path, text: str | bytes, message: str) -> None:
    assert message in told(path, text)


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.yaml"):
        with pytest.raises(SpecFileError, match="cannot be read"):
            read_spec(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_or_a_device_is_no_study(path: Path) -> None:
    """Opening the one waits for ever, reading the other never ends."""
    os.mkfifo(path)
    for each in (path, Path("/dev/zero")):
        with pytest.raises(SpecFileError, match="no regular file"):
            read_spec(each)


def test_what_people_write_is_taken(path: Path) -> None:
    """A date as name, a byte order mark, an alias, a number with an exponent, Japanese."""
    text = "\ufeff" + GOOD.replace("name: s", "name: 2026-10-01").replace("epochs: 3", "lr: 2e-4")
    path.write_text(text + "system_prompt: &p 河川工学\n", encoding="utf-8")
    spec = read_spec(path)
    assert (spec.name, spec.training.lr, spec.system_prompt) == ("2026-10-01", 2e-4, "河川工学")


@pytest.mark.parametrize("text", ["x: &a [*a]\n", "x: &a {y: *a}\n"])
def test_an_alias_inside_itself_does_not_hang(path: Path, text: str) -> None:
    assert "study.yaml:12: x: unknown key" in told(path, GOOD + text)


def test_aliases_that_multiply_do_not_hang(path: Path) -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    assert "a0: unknown key" in told(path, GOOD + "\n".join(lines))


def test_json_is_told_without_lines() -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec({"name": "s", "data": {"source": 1}, "bases": [{"name": "b"}], "stages": {"bases": {"n": 0}}})
    assert caught.value.message == (
        "spec: data.source: found 1, expected text (put it in quotes); bases.0.source: is missing; "
        "stages.bases.n: 0 is too small: at least 1"
    )


def test_the_pattern_of_names_has_its_words() -> None:
    (name,) = [each for each in StudySpec.model_fields["name"].metadata if getattr(each, "pattern", None)]
    assert name.pattern in PATTERNS


def test_a_huge_key_is_not_repeated_whole() -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec({"x" * 100_000: 1})
    assert "xxx…: unknown key" in str(caught.value) and len(str(caught.value)) < 1000
