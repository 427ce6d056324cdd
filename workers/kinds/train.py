"""Dataset × base → adapter."""

from jsm_queue.canonical import canonical_json
from jsm_queue.data.examples import read_examples, write_whole
from jsm_queue.data.subsets import subset
from jsm_queue.errors import DataError
from jsm_queue.kinds import ROLE_FILES, TrainParams
from workers.engine import bases, lora
from workers.engine.encoding import encode_all
from workers.engine.train import Fitted, fit
from workers.work import Outcome, Work


def run(work: Work) -> Outcome:
    """A PEFT folder and training_log.json. Raises DataError when there are fewer than n examples."""
    params: TrainParams = work.params
    available = read_examples(work.inputs / "dataset" / ROLE_FILES["train"])
    if params.n > len(available):
        raise DataError(
            f"n = {params.n}, but the dataset has {len(available)} training examples",
            "Choose sizes no larger than that",
        )
    examples = subset(available, params.n, params.seed)
    base = bases.load(work, params.training.quantized)
    encoded, dropped = encode_all(base, examples, params.system_prompt, params.training.max_length)
    with bases.training_precision(base), lora.fresh(base, params.training, params.seed) as model:
        fitted = fit(base, model, [each for _, each in encoded], params.training, params.seed, work)
        lora.save_adapter(model, params.base, work.folder)
    write_whole(work.folder / ROLE_FILES["training_log"], canonical_json(fitted.log()))
    return Outcome(metrics=_metrics(fitted) | {"dropped": dropped})


def _metrics(fitted: Fitted) -> dict[str, float]:
    return {
        "tokens": fitted.tokens,
        "steps": len(fitted.steps),
        "seconds": fitted.seconds,
        "tokens_per_second": fitted.tokens / fitted.seconds,
        "loss_first": fitted.steps[0].loss,
        "loss_last": fitted.steps[-1].loss,
        "peak_bytes": fitted.peak_bytes,
    }
