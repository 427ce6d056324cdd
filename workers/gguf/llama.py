"""One GGUF file in llama.cpp: tokens, logits and greedy answers, through the low-level bindings.

The low-level calls keep three things exact that the high-level class decides by itself: BOS is never doubled, nothing
but the largest logit chooses a token, and the time to the first token is that token's.
"""

import ctypes
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import llama_cpp.llama_cpp
import numpy as np

from jsm_queue.errors import ModelError
from jsm_queue.spec import Format
from workers.work import Device

lib: Any = llama_cpp.llama_cpp
"""The bindings' functions, untyped: their annotations take tokens and pointers for other types than ctypes gives."""

FILE_TYPES: dict[Format, int] = {
    "F16": lib.LLAMA_FTYPE_MOSTLY_F16,
    "Q8_0": lib.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q6_K": lib.LLAMA_FTYPE_MOSTLY_Q6_K,
    "Q5_K_M": lib.LLAMA_FTYPE_MOSTLY_Q5_K_M,
    "Q4_K_M": lib.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "Q3_K_M": lib.LLAMA_FTYPE_MOSTLY_Q3_K_M,
    "Q2_K": lib.LLAMA_FTYPE_MOSTLY_Q2_K,
}
"""llama.cpp's numbers of our formats, as in the key `general.file_type`."""

BATCH = 512
"""Tokens fed to llama.cpp at once: bounds its compute buffer."""

DECODE_NO_MEMORY = -2
"""llama_decode's code for a failed allocation."""

LOG_LEVELS = (3, 4)
"""ggml's WARN and ERROR; everything else llama.cpp says is dropped."""

log_lines: deque[str] = deque(maxlen=1000)
"""What llama.cpp complained about since `start_library`."""


@lib.llama_log_callback
def _keep_log(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
    if level in LOG_LEVELS:
        log_lines.append(text.decode("utf-8", "replace").strip())


def start_library() -> None:
    """Readies llama.cpp for the next file: silenced, earlier complaints forgotten."""
    _init_backend()
    log_lines.clear()


@cache
def _init_backend() -> None:
    lib.llama_log_set(_keep_log, ctypes.c_void_p(0))
    lib.llama_backend_init()


@dataclass(frozen=True)
class Generation:
    """One greedy answer. `ids` without the end token; `ttft`, `seconds`: from the call to the first, the last token."""

    ids: list[int]
    text: str
    stop: Literal["end", "length"]
    ttft: float
    seconds: float


class Gguf:
    """A loaded GGUF with one context of `context` tokens; made by `open_gguf`."""

    def __init__(self, model: Any, ctx: Any, context: int) -> None:
        self.context = context
        self._model = model
        self._ctx = ctx
        self._vocab = lib.llama_model_get_vocab(model)
        self._batch = lib.llama_batch_init(BATCH, 0, 1)
        self.vocab_size = lib.llama_vocab_n_tokens(self._vocab)

    def close(self) -> None:
        """Frees what belongs to the file."""
        lib.llama_batch_free(self._batch)
        lib.llama_free(self._ctx)
        lib.llama_model_free(self._model)

    @property
    def chat_template(self) -> str | None:
        """The file's own Jinja template."""
        template = lib.llama_model_chat_template(self._model, None)
        return template.decode("utf-8") if template else None

    @property
    def format(self) -> Format | None:
        """Which of our formats the file is in; None for another one."""
        buffer = ctypes.create_string_buffer(16)
        lib.llama_model_meta_val_str(self._model, b"general.file_type", buffer, len(buffer))
        return next((name for name, number in FILE_TYPES.items() if str(number).encode() == buffer.value), None)

    def special_text(self, name: Literal["bos", "eos"]) -> str:
        """The text of that special token, "" where the file names none: llama.cpp then assumes an id of its own."""
        buffer = ctypes.create_string_buffer(16)
        if lib.llama_model_meta_val_str(self._model, f"tokenizer.ggml.{name}_token_id".encode(), buffer, 16) < 0:
            return ""
        token = lib.llama_vocab_bos(self._vocab) if name == "bos" else lib.llama_vocab_eos(self._vocab)
        return lib.llama_vocab_get_text(self._vocab, token).decode("utf-8") if token >= 0 else ""

    def is_end(self, token: int) -> bool:
        """Does generation stop at this token?"""
        return lib.llama_vocab_is_eog(self._vocab, token)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of rendered text. BOS is added where the vocabulary wants one and the text has none."""
        data = text.encode("utf-8")
        room = len(data) + 8
        buffer = (lib.llama_token * room)()
        count = lib.llama_tokenize(self._vocab, data, len(data), buffer, room, False, True)
        ids = list(buffer[:count])
        bos = lib.llama_vocab_bos(self._vocab)
        missing = lib.llama_vocab_get_add_bos(self._vocab) and ids[:1] != [bos]
        return [bos, *ids] if missing else ids

    def text(self, ids: Sequence[int]) -> str:
        """The text of generated ids, special tokens left out."""
        tokens = (lib.llama_token * len(ids))(*ids)
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = lib.llama_detokenize(self._vocab, tokens, len(ids), buffer, room, False, False)
            if count >= 0:
                return buffer.raw[:count].decode("utf-8", "replace")
            room = -count

    def logits(self, ids: Sequence[int], first: int) -> np.ndarray:
        """Next-token logits after each of the positions first … len(ids) − 1, float32 (len(ids) − first, vocab)."""
        self._fits(len(ids))
        lib.llama_memory_clear(lib.llama_get_memory(self._ctx), True)
        out = np.empty((len(ids) - first, self.vocab_size), dtype=np.float32)
        for start in range(0, len(ids), BATCH):
            chunk = ids[start : start + BATCH]
            wanted = range(max(first - start, 0), len(chunk))
            self._decode(chunk, start, wanted)
            for index in wanted:
                out[start + index - first] = self._row(index)
        return out

    def generate(self, ids: Sequence[int], max_new_tokens: int) -> Generation:
        """The greedy continuation of a prompt, until an end token, `max_new_tokens` or the context's end.

        Raises ModelError when the prompt alone fills the context.
        """
        self._fits(len(ids) + 1)
        began = time.perf_counter()
        answer: list[int] = []
        token = int(self.logits(ids, len(ids) - 1)[0].argmax())
        ttft = time.perf_counter() - began
        while not (ended := self.is_end(token)):
            answer.append(token)
            if len(answer) == max_new_tokens or len(ids) + len(answer) >= self.context:
                break
            self._decode([token], len(ids) + len(answer) - 1, [0])
            token = int(self._row(0).argmax())
        seconds = time.perf_counter() - began
        return Generation(answer, self.text(answer), "end" if ended else "length", ttft, seconds)

    def _fits(self, tokens: int) -> None:
        if tokens > self.context:
            raise ModelError(f"{tokens} tokens do not fit the context of {self.context}", "Raise decoding.context")

    def _decode(self, ids: Sequence[int], start: int, wanted: Sequence[int]) -> None:
        batch = self._batch
        batch.n_tokens = len(ids)
        for index, token in enumerate(ids):
            batch.token[index] = token
            batch.pos[index] = start + index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = False
        for index in wanted:
            batch.logits[index] = True
        code = lib.llama_decode(self._ctx, batch)
        if code == DECODE_NO_MEMORY:
            raise MemoryError("llama.cpp: out of memory")
        if code != 0:  # the file was loaded, so this is the machine's trouble
            raise RuntimeError(f"llama.cpp could not compute (code {code}): {last_log()}")

    def _row(self, index: int) -> np.ndarray:
        return np.ctypeslib.as_array(lib.llama_get_logits_ith(self._ctx, index), (self.vocab_size,))


def place(device: Device) -> Literal["cpu", "cuda"]:
    """Where llama.cpp computes for a slot: on the CPU also where it was not built for the slot's GPU."""
    return "cuda" if device.name.startswith("cuda") and lib.llama_supports_gpu_offload() else "cpu"


@contextmanager
def open_gguf(path: Path, device: Device, context: int) -> Iterator[Gguf]:
    """Loads a GGUF: on the CPU, or whole on the device's GPU where llama.cpp was built for one.

    Raises ModelError for a file that llama.cpp refuses, MemoryError when its context does not fit.
    """
    start_library()
    model = lib.llama_model_load_from_file(str(path).encode("utf-8"), _model_params(device))
    if not model:
        if "allocate" in last_log():
            raise MemoryError(f"llama.cpp: out of memory for {path.name}")
        raise ModelError(f"llama.cpp cannot load {path.name}: {last_log()}", "Convert the model again")
    ctx = lib.llama_init_from_model(model, _context_params(device, context))
    if not ctx:
        lib.llama_model_free(model)
        raise MemoryError(f"llama.cpp: out of memory for a context of {context} tokens: {last_log()}")
    gguf = Gguf(model, ctx, context)
    try:
        yield gguf
    finally:
        gguf.close()


def last_log() -> str:
    """The last things llama.cpp complained about."""
    return "; ".join(list(log_lines)[-3:]) or "it gave no reason"


def _model_params(device: Device) -> Any:
    params = lib.llama_model_default_params()
    on_gpu = place(device) == "cuda"
    params.n_gpu_layers = -1 if on_gpu else 0
    params.split_mode = lib.LLAMA_SPLIT_MODE_NONE
    params.main_gpu = int(device.name.partition(":")[2] or 0) if on_gpu else 0
    return params


def _context_params(device: Device, context: int) -> Any:
    params = lib.llama_context_default_params()
    params.n_ctx = context
    params.n_batch = params.n_ubatch = BATCH
    params.n_threads = params.n_threads_batch = device.threads
    params.no_perf = True
    return params
