"""The scheduler: which ready job goes to which free slot, and why one waits. Pure: values in, offers out.

`offers`: what goes in and out. `pool`: the slots as arrays, and the rules which of them suit a job. `order`: which job
comes first. `assigning`: who gets what. `explain`: why a job waits, by the same rules.
"""

from jsm_queue.scheduler.assigning import assign
from jsm_queue.scheduler.explain import Need, Situation, explain
from jsm_queue.scheduler.offers import Files, Offer, OpenSlot, ReadyJob

__all__ = ["Files", "Need", "Offer", "OpenSlot", "ReadyJob", "Situation", "assign", "explain"]
