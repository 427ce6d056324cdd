"""From a spec's names to content."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from jsm_queue.canonical import file_hash
from jsm_queue.cli import resolve
from jsm_queue.errors import DataError, ModelError
from jsm_queue.spec import StudySpec, parse_spec
from tests import gguf_files
from tests.pairs import pair_lines


def spec(base: dict[str, Any], **data: Any) -> StudySpec:
    return parse_spec(
        {
            "name": "s",
            "data": {"source": "data.jsonl"} | data,
            "bases": [{"name": "b", "source": "model"} | base],
            "stages": {"bases": {"n": 5}},
        }
    )


def write_model(folder: Path) -> None:
    folder.mkdir()
    config = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 2}
    (folder / "config.json").write_text(json.dumps(config | heads), encoding="utf-8")
    (folder / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {"a": 0}}}', encoding="utf-8")
    (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    header = json.dumps({"__metadata__": {}, "w": {"dtype": "F16", "shape": [3, 4], "data_offsets": [0, 24]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(24))
    (folder / "README.md").write_text("a card", encoding="utf-8")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "data.jsonl").write_text(pair_lines(240), encoding="utf-8")
    write_model(tmp_path / "model")
    return tmp_path


def test_a_local_base_is_its_files(study: Path) -> None:
    found = resolve.resolve(spec({}), study)
    assert found.inputs.bases["b"].form == "folder"
    assert sorted(found.inputs.bases["b"].files) == [
        *("chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json")
    ]
    assert found.inputs.source.sha == file_hash(study / "data.jsonl")
    assert set(found.files) == {found.inputs.source.sha, *found.inputs.bases["b"].files.values()}


def test_the_model_card_does_not_change_the_study(study: Path) -> None:
    before = resolve.resolve(spec({}), study).inputs
    (study / "model" / "README.md").write_text("another card", encoding="utf-8")
    assert resolve.resolve(spec({}), study).inputs == before
    (study / "model" / "generation_config.json").write_text("{}", encoding="utf-8")
    assert resolve.resolve(spec({}), study).inputs != before


def test_facts_of_a_base_are_read_from_its_files(study: Path) -> None:
    facts = resolve.resolve(spec({}), study).inputs.facts["b"]
    assert (facts.family, facts.heads, facts.kv_heads, facts.parameters) == ("qwen2", 8, 2, 12)


def test_a_gguf_file(study: Path) -> None:
    gguf_files.write(study / "m.gguf")
    base = resolve.resolve(spec({"source": "m.gguf"}), study).inputs.bases["b"]
    assert (base.form, list(base.files)) == ("gguf", ["m.gguf"])


def test_a_file_inside_an_installed_package(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = study / "somewhere" / "a_package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    gguf_files.write(package / "m.gguf")
    monkeypatch.syspath_prepend(str(study / "somewhere"))
    found = resolve.resolve(spec({"source": "package:a_package/m.gguf"}), study)
    assert list(found.files.values())[-1] == package / "m.gguf"


def test_a_missing_package_is_named_with_its_command(study: Path) -> None:
    with pytest.raises(ModelError) as caught:
        resolve.resolve(spec({"source": "package:no_such_package/m.gguf"}), study)
    assert caught.value.fix == "pip install no-such-package"


@pytest.mark.parametrize("source", ["no-model", "./org/name", "../x", "m.gguf"])
def test_a_base_that_is_not_there(study: Path, source: str) -> None:
    with pytest.raises(ModelError, match=r"bases\.b\.source"):
        resolve.resolve(spec({"source": source}), study)


def test_pickled_weights_are_refused(study: Path) -> None:
    (study / "model" / "model.safetensors").rename(study / "model" / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled"):
        resolve.resolve(spec({}), study)


def test_missing_data_names_the_file(study: Path) -> None:
    with pytest.raises(DataError, match=r"data\.bench: .*nothing\.yaml does not exist"):
        resolve.resolve(spec({}, bench="nothing.yaml"), study)


@pytest.mark.parametrize("name", ["data.jsonlines", "data.txt", "data"])
def test_data_of_a_form_that_is_not_read_are_refused(study: Path, name: str) -> None:
    (study / name).touch()
    with pytest.raises(DataError, match=r"data\.source: .*\.yaml, \.yml, \.jsonl, \.csv") as caught:
        resolve.resolve(spec({}, source=name), study)
    assert caught.value.fix
    with pytest.raises(DataError, match=r"data\.bench"):
        resolve.sketch(spec({}, bench=name), study)


def test_a_suffix_may_be_in_capitals(study: Path) -> None:
    (study / "DATA.JSONL").write_text(pair_lines(240), encoding="utf-8")
    assert resolve.resolve(spec({}, source="DATA.JSONL"), study).inputs.source.suffix == ".jsonl"


def test_a_sketch_goes_on_with_placeholders(tmp_path: Path) -> None:
    found, warnings = resolve.sketch(spec({"source": "org/model"}, bench="b.jsonl"), tmp_path)
    assert len(warnings) == 2
    assert found.files == {}
    assert (found.inputs.bases["b"].form, found.inputs.bases["b"].revision) == ("hub", "main")


def test_a_template_is_a_file_or_a_known_name(study: Path) -> None:
    (study / "t.jinja").write_text("{{ messages }}", encoding="utf-8")
    assert (
        resolve.resolve(spec({"chat_template": "t.jinja"}), study).inputs.bases["b"].chat_template == "{{ messages }}"
    )
    with pytest.raises(ModelError, match="chat_template"):
        resolve.resolve(spec({"chat_template": "nothing"}), study)
