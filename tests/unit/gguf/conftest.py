from pathlib import Path

import pytest

from workers.gguf import tiny
from workers.gguf.export import export_f16


@pytest.fixture(scope="session")
def llama_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its template writes BOS and its tokenizer adds one."""
    return tiny.save_base(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="session")
def qwen_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Has no BOS; tied embeddings."""
    return tiny.save_base(tmp_path_factory.mktemp("qwen2"), "qwen2")


@pytest.fixture(scope="session")
def qwen_adapter(tmp_path_factory: pytest.TempPathFactory, qwen_base: Path) -> Path:
    return tiny.save_adapter(tmp_path_factory.mktemp("adapter"), qwen_base)


@pytest.fixture(scope="session")
def llama_f16(llama_base: Path) -> Path:
    out = llama_base / "f16.gguf"
    export_f16(llama_base, None, out)
    return out


@pytest.fixture(scope="session")
def qwen_f16(qwen_base: Path) -> Path:
    out = qwen_base / "f16.gguf"
    export_f16(qwen_base, None, out)
    return out
