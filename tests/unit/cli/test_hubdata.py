"""A dataset of the hub by its id. Only the hub's package is replaced."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from jsm_queue.canonical import file_hash
from jsm_queue.cli import hubdata, resolve
from jsm_queue.errors import DataError, HubAwayError, SetupError
from jsm_queue.spec import StudySpec, parse_spec
from tests.pairs import pair_lines
from tests.unit.cli.test_resolve import write_model

Asked = list[tuple[str, str, str | None]]


class HubError(Exception):
    """As the hub's package raises them: with the answer they come from."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{status} for this url\nmore lines")
        self.response = SimpleNamespace(status_code=status)


def spec(source: str, bench: str | None = None) -> StudySpec:
    value = {
        "name": "s",
        "data": {"source": source, "validation": 10, "test_unseen": 10, "bench": bench},
        "bases": [{"name": "b", "source": "./model"}],
        "stages": {"bases": {"n": 5}},
    }
    return parse_spec(value)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Asked]:
    """A hub that holds these files, or fails. Returns what will have been asked of it."""
    write_model(tmp_path / "model")

    def make(*files: str, error: Exception | None = None) -> Asked:
        asked: Asked = []

        def download(repo: str, file: str, repo_type: str, revision: str | None) -> str:
            assert repo_type == "dataset"
            asked.append((repo, file, revision))
            if error:
                raise error
            path = tmp_path / "cache" / Path(file).name
            path.parent.mkdir(exist_ok=True)
            lines = pair_lines(60).splitlines()
            text = pair_lines(60) if path.suffix == ".jsonl" else json.dumps([json.loads(line) for line in lines])
            path.write_text(text, encoding="utf-8")
            return str(path)

        def describe(repo: str, revision: str | None) -> SimpleNamespace:
            if error:
                raise error
            names = ["README.md", ".gitattributes", "dataset_infos.json", *files]
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in names])

        fake = SimpleNamespace(
            hf_hub_download=download,
            HfApi=lambda: SimpleNamespace(dataset_info=describe),
            logging=SimpleNamespace(set_verbosity_error=lambda: None),
        )
        monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
        return asked

    return make


@pytest.mark.parametrize(
    ("address", "asked"),
    [
        ("hub:org/name", ("org/name", "rows.json", None)),
        ("hub:org/name@v1.0", ("org/name", "rows.json", "v1.0")),
        ("hub:org/na.me-ja/data/train.jsonl", ("org/na.me-ja", "data/train.jsonl", None)),
        ("hub:org/name@v1.0/data/train.jsonl", ("org/name", "data/train.jsonl", "v1.0")),
        ("hub:org/name@refs/convert/parquet/d/0.jsonl", ("org/name", "d/0.jsonl", "refs/convert/parquet")),
    ],
)
def test_a_hub_dataset_becomes_a_local_file(
    hub: Callable[..., Asked], tmp_path: Path, address: str, asked: tuple[str, str, str | None]
) -> None:
    seen = hub("rows.json")
    found = resolve.resolve(spec(address), tmp_path)
    assert seen == [asked]
    path = found.files[found.inputs.source.sha]
    assert found.inputs.source.suffix == path.suffix and found.inputs.source.sha == file_hash(path)


def test_a_choice_of_files_is_listed(hub: Callable[..., Asked], tmp_path: Path) -> None:
    hub("train.jsonl", "test.jsonl")
    with pytest.raises(
        DataError, match=r"data\.source: org/name holds 2 data files: train\.jsonl, test\.jsonl"
    ) as told:
        resolve.resolve(spec("hub:org/name@v1"), tmp_path)
    assert "hub:org/name@v1/train.jsonl" in told.value.fix
    hub("train.arrow")
    with pytest.raises(DataError, match="org/name holds no file that ends in"):
        resolve.resolve(spec("hub:org/name"), tmp_path)


@pytest.mark.parametrize("name", ["hub:", "hub:org", "hub:org/name@", "hub:../x/y", "hub:org/name@a@b"])
def test_an_address_of_another_form_is_refused(tmp_path: Path, name: str) -> None:
    for look in (resolve.resolve, resolve.sketch):
        with pytest.raises(DataError, match=r"data\.source: .* is no address of a dataset on the hub"):
            look(spec(name), tmp_path)


def test_a_file_of_another_form_is_refused_before_it_is_fetched(hub: Callable[..., Asked], tmp_path: Path) -> None:
    seen = hub()
    with pytest.raises(DataError, match=r"ends in \.arrow"):
        resolve.resolve(spec("hub:org/name/x.arrow"), tmp_path)
    assert seen == []


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (HubError(404), DataError, r"data\.source: org/name cannot be had from the hub \(404 for this url\)"),
        (HubError(401), DataError, "cannot be had"),
        (ValueError("bad id"), DataError, "cannot be had"),
        (HubError(503), HubAwayError, r"data\.source: org/name: the hub does not answer \(503 for this url\)"),
        (ConnectionError(), SetupError, r"does not answer \(ConnectionError\)"),
        (FileNotFoundError("offline, and not in the cache"), SetupError, "offline, and not in the cache"),
    ],
)
@pytest.mark.parametrize("address", ["hub:org/name", "hub:org/name/x.jsonl"])
def test_what_the_hub_refuses_and_what_may_pass(
    hub: Callable[..., Asked], tmp_path: Path, error: Exception, kind: type[Exception], said: str, address: str
) -> None:
    hub(error=error)
    with pytest.raises(kind, match=said):
        resolve.resolve(spec(address), tmp_path)


def test_without_its_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(SetupError, match=r"huggingface_hub.*jsm-queue\[worker\]"):
        hubdata.fetch(hubdata.parse_address("hub:org/name", "data.source"), (".jsonl",), "data.source")


def test_a_dry_run_asks_no_hub(hub: Callable[..., Asked], tmp_path: Path) -> None:
    seen = hub(error=AssertionError("asked"))
    found, warnings = resolve.sketch(spec("hub:org/name", "hub:org/bench/b.parquet"), tmp_path)
    assert seen == [] and [line.split(" is not")[0] for line in warnings] == [
        *("data.source: hub:org/name", "data.bench: hub:org/bench/b.parquet")
    ]
    assert found.inputs.bench and found.inputs.bench.suffix == ".parquet"


def test_the_real_package_has_what_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline and with nothing in its cache it raises what is told as a hub that does not answer."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name in ("hub:no-org/no-name", "hub:no-org/no-name/x.jsonl"):
        with pytest.raises(HubAwayError, match=r"no-org/no-name: the hub does not answer"):
            hubdata.fetch(hubdata.parse_address(name, "data.source"), (".jsonl",), "data.source")
