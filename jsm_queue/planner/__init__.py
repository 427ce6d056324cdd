"""The planner: what a study wants next. Pure: values in, values out.

`study`: what goes in and out. `choices`: what the spec and the verdicts have chosen. `drafts`: the jobs of a cell.
`grid`: the stages' cells, and `plan` itself.
"""

from jsm_queue.planner.choices import answer_format, seeds, used_bases
from jsm_queue.planner.grid import plan, preview
from jsm_queue.planner.study import TERMINAL, Cell, Plan, Stage, Study, Wanted, prepare_params

__all__ = [
    "TERMINAL",
    "Cell",
    "Plan",
    "Stage",
    "Study",
    "Wanted",
    "answer_format",
    "plan",
    "prepare_params",
    "preview",
    "seeds",
    "used_bases",
]
