"""`training.targets` against a base's modules, before anything is trained."""

from collections.abc import Mapping, Sequence

from jsm_queue.errors import SpecError

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")
"""The linear layers of every supported architecture, for bases whose tensors are not known here."""

FIX = f"Name linear layers of the base ({', '.join(LINEAR[:-1])}), or all-linear"


def check(targets: str | Sequence[str], shapes: Mapping[str, Sequence[int]] | None) -> None:
    """`shapes`: tensor name → shape, None where they are not known. Raises SpecError for a target that no linear
    layer has, by its name or the end of its path.
    """
    if isinstance(targets, str):
        return
    for target in targets:
        if shapes is None:
            found = target.rsplit(".", 1)[-1] in LINEAR
        else:
            found = any(_is_linear(name, shape) and _ends_with(name, target) for name, shape in shapes.items())
        if not found:
            raise SpecError(f"training.targets: the base has no linear layer {target!r}", FIX)


def _ends_with(name: str, target: str) -> bool:
    return f".{name.removesuffix('.weight')}".endswith(f".{target}")


def _is_linear(name: str, shape: Sequence[int]) -> bool:
    return name.endswith(".weight") and len(shape) == 2 and not name.endswith("embed_tokens.weight")
