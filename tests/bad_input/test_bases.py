"""A base that cannot be used is refused at submit, before anything is hashed or uploaded, and again at the worker."""

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jsm_queue.cli import basefiles
from jsm_queue.data import chat_templates
from jsm_queue.errors import (
    ChatTemplateError,
    JsmError,
    ModelDamagedError,
    ModelError,
    ModelMissingError,
    ModelUnsafeError,
    ModelUnsupportedError,
    SpecError,
)
from jsm_queue.kinds import BaseFacts, BaseRef
from jsm_queue.modelfiles import folder as model_folder
from jsm_queue.modelfiles import gguf, safetensors
from jsm_queue.spec import BaseSpec
from tests import gguf_files
from workers import runner

Damage = Callable[[Path], object]

TENSORS = {
    "model.embed_tokens.weight": (4, 2),
    "model.layers.0.self_attn.q_proj.weight": (2, 2),
    "model.norm.weight": (2,),
}


def write_tensors(path: Path, tensors: dict[str, tuple[int, ...]] = TENSORS, **changes: Any) -> None:
    """A safetensors file of float32 zeros. `changes`: header entries that are put in the place of the right ones."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, shape in tensors.items():
        size = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header | changes).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(place))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A folder with a whole base `model`."""
    base = tmp_path / "model"
    base.mkdir()
    write_json(base, "config.json", {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2})
    write_json(base, "tokenizer.json", {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}})
    write_json(base, "tokenizer_config.json", {"chat_template": "{{ messages }}"})
    write_tensors(base / "model.safetensors")
    return tmp_path


def write_json(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def fail(error: JsmError) -> None:
    raise error


def submit(study: Path, targets: list[str] | str = "all-linear", **base: Any) -> tuple[BaseRef, BaseFacts]:
    """What `jsm plan` and `jsm submit` do with a base before they upload anything."""
    spec = BaseSpec.model_validate({"name": "b", "source": "./model"} | base)
    found = basefiles.base_files(spec, study, {}, fail, ask_hub=True)
    basefiles.check_targets(spec, targets, study)
    return found


def changed(**changes: Any) -> Damage:
    """Another config.json. None: without that key."""

    def change(base: Path) -> None:
        config = json.loads((base / "config.json").read_text(encoding="utf-8")) | changes
        write_json(base, "config.json", {key: value for key, value in config.items() if value is not None})

    return change


def written(name: str, value: Any) -> Damage:
    return lambda base: write_json(base, name, value)


def removed(name: str) -> Damage:
    return lambda base: (base / name).unlink()


def cut(name: str, size: int) -> Damage:
    return lambda base: (base / name).write_bytes((base / name).read_bytes()[:size])


def header(**changes: Any) -> Damage:
    return lambda base: write_tensors(base / "model.safetensors", **changes)


def sharded(weight_map: Any) -> Damage:
    """One shard `model-1.safetensors`, and an index."""

    def change(base: Path) -> None:
        (base / "model.safetensors").rename(base / "model-1.safetensors")
        write_json(base, "model.safetensors.index.json", {"weight_map": weight_map})

    return change


def pickled(base: Path) -> None:
    (base / "model.safetensors").rename(base / "pytorch_model.bin")


ONE = dict.fromkeys(TENSORS, "model-1.safetensors")
NORM = "model.norm.weight"

DAMAGES: list[tuple[Damage, type[JsmError], str]] = [
    (removed("config.json"), ModelDamagedError, "it has no config.json"),
    (written("config.json", "{"), ModelDamagedError, "config.json is not valid JSON"),
    (written("config.json", "[" * 50_000), ModelDamagedError, "config.json is not valid JSON"),
    (written("config.json", []), ModelDamagedError, "config.json does not hold an object"),
    (changed(architectures=None), ModelDamagedError, "names no architectures"),
    (changed(architectures=[]), ModelDamagedError, "names no architectures"),
    (changed(architectures="LlamaForCausalLM"), ModelDamagedError, "names no architectures"),
    (changed(architectures=[{}]), ModelDamagedError, "names no architectures"),
    (changed(architectures=["GPT2LMHeadModel"], model_type="gpt2"), ModelUnsupportedError, "GPT2LMHeadModel"),
    (changed(model_type=["llama"]), ModelUnsupportedError, "is not covered"),
    (
        changed(architectures=["Own"], model_type="own", auto_map={"AutoModel": "own.M"}),
        ModelUnsafeError,
        "Python code",
    ),
    (changed(quantization_config={"bits": 4}), ModelUnsupportedError, "quantized already"),
    (changed(num_attention_heads=0), ModelDamagedError, "num_attention_heads is 0, expected a number of at least 1"),
    (changed(hidden_size="2"), ModelDamagedError, "hidden_size is '2'"),
    (removed("model.safetensors"), ModelDamagedError, "it has no model.safetensors"),
    (pickled, ModelUnsafeError, "its weights are pickled (pytorch_model.bin)"),
    (cut("model.safetensors", 0), ModelDamagedError, "not a whole safetensors file (0 bytes)"),
    (cut("model.safetensors", 7), ModelDamagedError, "not a whole safetensors file"),
    (cut("model.safetensors", 60), ModelDamagedError, "not a whole safetensors file"),
    (cut("model.safetensors", -8), ModelDamagedError, "bytes where its header says"),
    (
        lambda base: (base / "model.safetensors").write_bytes(b"\x02" + bytes(7) + b"[]"),
        ModelDamagedError,
        "no tensors",
    ),
    (header(**{NORM: 7}), ModelDamagedError, "its header says of model.norm.weight what cannot be"),
    (header(**{NORM: {"dtype": "F32", "shape": [3], "data_offsets": [48, 56]}}), ModelDamagedError, "what cannot be"),
    (header(**{NORM: {"dtype": "F32", "shape": [-2], "data_offsets": [48, 40]}}), ModelDamagedError, "what cannot be"),
    (header(**{NORM: {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}), ModelDamagedError, "at 8, expected 32"),
    (sharded(ONE | {"x": "model-2.safetensors"}), ModelDamagedError, "weights are missing: model-2.safetensors"),
    (sharded(ONE | {"x": "../data.jsonl"}), ModelDamagedError, "weights are missing: ../data.jsonl"),
    (sharded(ONE | {"x": "model-1.safetensors"}), ModelDamagedError, "weights are missing: no file holds x"),
    (sharded([]), ModelDamagedError, "names no weights"),
    (sharded({"x": 7}), ModelDamagedError, "names no weights"),
    (removed("tokenizer.json"), ModelDamagedError, "no tokenizer"),
    (written("tokenizer.json", "{}"), ModelDamagedError, "holds no vocabulary"),
    (written("tokenizer.json", "nonsense"), ModelDamagedError, "tokenizer.json is not valid JSON"),
    (written("tokenizer.json", {"model": {"type": "Unigram", "vocab": [["a", 0]]}}), ModelUnsupportedError, "Unigram"),
    (written("tokenizer_config.json", "[]"), ModelDamagedError, "tokenizer_config.json does not hold an object"),
]


@pytest.mark.parametrize(("damage", "kind", "message"), DAMAGES, ids=lambda each: each if isinstance(each, str) else "")
def test_a_damaged_base(
    study: Path, damage: Damage, kind: type[JsmError], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(study / "model")
    monkeypatch.setattr(basefiles, "add", lambda path, files: pytest.fail(f"{path} was hashed"))
    with pytest.raises(kind) as caught:
        submit(study)
    assert caught.value.message.startswith(f"bases.b.source: {study / 'model'}: ")
    assert message in caught.value.message and caught.value.fix and caught.value.exit_code == 2
    # An older submitter may have let it pass: at the worker it is the job's error, not a crash.
    with pytest.raises(ModelError) as at_worker:
        model_folder.check(study / "model")
    assert runner.classify(at_worker.value)[0] == "error"


LAYERED = TENSORS | {"lm_head.weight": (4, 2)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 3}, "hidden_size is 3, but model.embed_tokens.weight is [4, 2]"),
        ({"vocab_size": 5}, "vocab_size is 5, but model.embed_tokens.weight is [4, 2]"),
        ({"num_hidden_layers": 2}, "num_hidden_layers is 2, but the weights have 1"),
    ],
)
def test_a_config_that_contradicts_the_weights(study: Path, changes: dict[str, int], message: str) -> None:
    write_tensors(study / "model" / "model.safetensors", LAYERED)
    changed(vocab_size=4, num_hidden_layers=1)(study / "model")
    assert submit(study)[0].files
    changed(**changes)(study / "model")
    with pytest.raises(ModelDamagedError) as caught:
        submit(study)
    assert message in caught.value.message and caught.value.fix


def test_an_output_layer_that_contradicts_the_config(study: Path) -> None:
    write_tensors(study / "model" / "model.safetensors", TENSORS | {"lm_head.weight": (4, 3)})
    with pytest.raises(ModelDamagedError, match=r"hidden_size is 2, but lm_head\.weight is \[4, 3\]"):
        submit(study)


@pytest.mark.parametrize("name", ["tokenizer.model", "model.safetensors", "generation_config.json"])
def test_a_link_that_leads_out_of_a_base(study: Path, name: str) -> None:
    path, secret = study / "model" / name, study / "secret"
    secret.write_bytes(path.read_bytes() if path.exists() else b"{}")
    path.unlink(missing_ok=True)
    path.symlink_to(secret)
    with pytest.raises(ModelUnsafeError, match="is a link that leads outside the folder"):
        submit(study)


def test_only_what_a_base_needs_is_taken(study: Path) -> None:
    (study / "secret").touch()
    (study / "model" / "secrets.json").symlink_to(study / "secret")
    write_json(study / "model", "notes.txt", "mine")
    wanted = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(submit(study)[0].files) == wanted


def test_the_links_of_a_snapshot_of_the_hub_are_followed(study: Path) -> None:
    cache = study / "models--org--name"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots" / "abc").mkdir(parents=True)
    for path in list((study / "model").iterdir()):
        blob = path.rename(cache / "blobs" / path.name)
        (cache / "snapshots" / "abc" / path.name).symlink_to(Path("../../blobs") / blob.name)
    assert len(submit(study, source="./models--org--name/snapshots/abc")[0].files) == 4


@pytest.mark.parametrize("source", ["./model", "m.gguf"])
def test_a_revision_of_a_local_base(study: Path, source: str) -> None:
    gguf_files.write(study / "m.gguf")
    with pytest.raises(SpecError, match=r"bases\.b\.revision: means nothing to"):
        submit(study, source=source, revision="main")


def test_a_context_beyond_a_base(study: Path) -> None:
    changed(max_position_embeddings=512)(study / "model")
    spec, (_, facts) = BaseSpec(name="b", source="./model"), submit(study)
    basefiles.check_context(spec, 512, facts)
    basefiles.check_context(spec, 4096, BaseFacts())
    with pytest.raises(SpecError, match=r"decoding\.context: 513 tokens, but bases\.b has positions for 512"):
        basefiles.check_context(spec, 513, facts)
    changed(rope_scaling={"rope_type": "yarn", "factor": 4.0})(study / "model")
    basefiles.check_context(spec, 2048, submit(study)[1])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for %}", "does not render (TemplateSyntaxError"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "does not render (SecurityError"),
        ("{{ 'a' * 10000000000000 }}", "does not render: it makes more than 50,000,000 characters"),
        ("{% for i in range(10**9) %}{% endfor %}", "does not render"),
        ("{{ raise_exception('no') }}", "it refuses a plain question (no)"),
        ("a text without any variable", "it leaves out the question"),
        ("{{ messages[0].content }}{{ messages[-1].content }}{{ messages[-1].content }}", "the answer exactly once"),
        ("{{ messages }}\0", "NUL"),
    ],
)
def test_a_chat_template_that_no_job_could_use(study: Path, template: str, message: str) -> None:
    (study / "t.jinja").write_text(template, encoding="utf-8")
    with pytest.raises(ChatTemplateError) as caught:
        submit(study, chat_template="t.jinja")
    assert caught.value.message.startswith(f"bases.b.chat_template: {study / 't.jinja'}: ")
    assert message in caught.value.message and caught.value.fix


def test_a_chat_template_that_wants_special_tokens_or_a_system_prompt(study: Path) -> None:
    for start in ("{{ bos_token + '' }}", "{% if messages[0].role != 'system' %}{{ raise_exception('s') }}{% endif %}"):
        text = start + "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
        (study / "t.jinja").write_text(text, encoding="utf-8")
        assert submit(study, chat_template="t.jinja")[0].chat_template == text


def test_the_built_in_templates_pass_the_same_check() -> None:
    for text in chat_templates.TEMPLATES.values():
        chat_templates.check(text)


def test_a_whole_base_is_taken(study: Path) -> None:
    assert submit(study)[1].parameters == 14
    sharded(ONE)(study / "model")
    assert submit(study)[1].parameters == 14
    changed(auto_map={"AutoModel": "own.Model"})(study / "model")  # ours is used: its code is not needed
    assert submit(study)[0].form == "folder"


@pytest.mark.parametrize("template", [None, "", [], [{"name": "tool_use", "template": "x"}]])
def test_a_base_without_chat_template(study: Path, template: Any) -> None:
    write_json(study / "model", "tokenizer_config.json", {"chat_template": template})
    with pytest.raises(ChatTemplateError, match=r"bases\.b\.source: .*no chat template"):
        submit(study)
    assert submit(study, chat_template="plain-ja")[0].chat_template
    write_json(study / "model", "chat_template.jinja", "{{ messages }}")
    assert submit(study)[0].files


def test_a_chat_template_that_cannot_be_read(study: Path) -> None:
    (study / "t.jinja").write_bytes(b"\xff")
    for name in ("t.jinja", "model", "nothing"):
        with pytest.raises(ChatTemplateError, match=r"bases\.b\.chat_template"):
            submit(study, chat_template=name)


@pytest.mark.parametrize(
    "source",
    [
        *("./nothing", "nothing", "x.gguf", "~nobody-here/x", "../..//nothing"),
        *("package:", "package:/x", "package:no_such/x", "package:a.b/x", "package:json/../json"),
        *("package:json", "package:json//", "package:json//usr", "package:json/../../bin"),
    ],
)
def test_an_unknown_base(study: Path, source: str) -> None:
    with pytest.raises(ModelMissingError, match=r"bases\.b\.source"):
        submit(study, source=source)


@pytest.mark.parametrize(
    "target", ["q_prj", "proj", "embed_tokens", "norm", "model.layers.1.self_attn.q_proj", "", "q_proj.weight"]
)
def test_a_target_that_no_linear_layer_has(study: Path, target: str) -> None:
    with pytest.raises(SpecError, match=r"bases\.b: training\.targets: the base has no linear layer"):
        submit(study, ["q_proj", target])
    assert submit(study, ["q_proj", "self_attn.q_proj"])[0].files


def test_targets_of_bases_whose_tensors_are_not_known(study: Path) -> None:
    gguf_files.write(study / "m.gguf")
    with pytest.raises(SpecError, match="q_prj"):
        submit(study, ["q_prj"], source="m.gguf")
    assert submit(study, ["q_proj", "layers.0.mlp.up_proj"], source="m.gguf")[0].files


def test_jsm_plan_refuses_them_without_torch(tmp_path: Path) -> None:
    """The whole command, as on an api's host."""
    river = shutil.copytree(Path(__file__).parents[2] / "examples" / "river", tmp_path / "river")
    cut("model.safetensors", 100_000)(river / "bases" / "river-llama")
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'transformers', 'gguf', 'huggingface_hub']));"
        "from jsm_queue.cli.main import main; main()"
    )
    command = [sys.executable, "-c", code, "plan", str(river / "study.yaml")]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=Path(__file__).parents[2])
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: bases.river-llama.source: ") and done.stderr.count("\n") == 1
    assert "model.safetensors: 100000 bytes where its header says" in done.stderr


# GGUF files


def test_every_cut_of_a_gguf_file_is_refused(tmp_path: Path) -> None:
    whole = gguf_files.write(tmp_path / "m.gguf").read_bytes()
    gguf.check(tmp_path / "m.gguf", template=False)
    for size in range(len(whole)):
        (tmp_path / "m.gguf").write_bytes(whole[:size])
        with pytest.raises(ModelDamagedError):
            gguf.check(tmp_path / "m.gguf", template=False)


def test_no_changed_byte_of_a_gguf_file_is_a_crash(tmp_path: Path) -> None:
    whole = gguf_files.write(tmp_path / "m.gguf").read_bytes()
    for place in range(len(whole) - 32):
        for value in (0, 0xFF):
            (tmp_path / "m.gguf").write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            try:
                gguf.check(tmp_path / "m.gguf", template=False)
            except ModelError as error:
                assert error.message.startswith("m.gguf: ")


def test_no_changed_byte_of_a_safetensors_header_is_a_crash(tmp_path: Path) -> None:
    write_tensors(tmp_path / "m.safetensors")
    whole = (tmp_path / "m.safetensors").read_bytes()
    for place in range(len(whole) - 56):
        for value in (0, ord("9"), 0xFF):
            (tmp_path / "m.safetensors").write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            try:
                safetensors.read_header(tmp_path / "m.safetensors")
            except ModelDamagedError as error:
                assert error.message.startswith("m.safetensors: ")


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"general__architecture": "gpt2"}, ModelUnsupportedError, "no GGUF export for 'gpt2'"),
        ({"general__architecture": None}, ModelUnsupportedError, "no GGUF export for None"),
        ({"tokenizer__chat_template": None}, ChatTemplateError, "holds no chat template"),
        ({"tokenizer__ggml__tokens": None}, ModelDamagedError, "holds no tokenizer"),
        ({"split__count": 3}, ModelUnsupportedError, "one of 3 parts"),
        ({"tensors": ()}, ModelDamagedError, "no tensors"),
        ({"tensors": ("rope_freqs.weight",)}, ModelUnsupportedError, "rotary frequencies are scaled"),
    ],
)  # fmt: skip
def test_a_gguf_file_that_is_no_base(study: Path, changes: dict[str, Any], kind: type[JsmError], message: str) -> None:
    gguf_files.write(study / "m.gguf", **changes)
    with pytest.raises(kind, match=r"bases\.b\.source: .*m\.gguf: ") as caught:
        submit(study, source="m.gguf")
    assert message in caught.value.message


def test_the_sizes_of_ggml_types_are_right() -> None:
    import gguf as library

    theirs = {kind.value: sizes for kind, sizes in library.GGML_QUANT_SIZES.items()}
    assert {kind: theirs[kind] for kind in gguf.BLOCKS} == gguf.BLOCKS


def test_what_is_supported_is_what_the_export_covers() -> None:
    from workers.gguf.architecture import ARCHITECTURES

    assert model_folder.SUPPORTED.keys() == ARCHITECTURES.keys()
