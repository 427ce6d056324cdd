"""What jobs take: seconds and memory, before anything ran and as learnt from what did. Pure.

`tasks`: what a job is made of. `rates`: what slots do in a second, and where those figures come from. `memory`: what a
job takes of a slot's memory. `learned`: what accepted attempts teach. `estimates`: how long a plan takes.
"""

from jsm_queue.costs.estimates import Estimate, cpu, cpu_slots, estimate, machine_for, seconds, wanted_task
from jsm_queue.costs.learned import PRIOR, Costs, Sample, learn
from jsm_queue.costs.memory import further_memory, memory
from jsm_queue.costs.rates import GPU, TRANSFER_BYTES_S, Machine, Rates, SlotClass, machine_of, prior_seconds
from jsm_queue.costs.tasks import StudyFacts, Task, study_facts, task
from jsm_queue.kinds import BaseFacts

__all__ = [
    "GPU",
    "PRIOR",
    "TRANSFER_BYTES_S",
    "BaseFacts",
    "Costs",
    "Estimate",
    "Machine",
    "Rates",
    "Sample",
    "SlotClass",
    "StudyFacts",
    "Task",
    "cpu",
    "cpu_slots",
    "estimate",
    "further_memory",
    "learn",
    "machine_for",
    "machine_of",
    "memory",
    "prior_seconds",
    "seconds",
    "study_facts",
    "task",
    "wanted_task",
]
