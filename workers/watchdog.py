"""Notices that this worker's consumer lives and hears nothing, and starts the worker anew.

Celery consumers have been seen alive, connected and deaf after a broker's restart. The api counts the offers in a row
that nobody claimed; heartbeats go on meanwhile, so the lease says nothing of it.
"""

from collections.abc import Callable

DEAF_OFFERS = 3
"""Offers in a row that ended unclaimed: one or two may have been lost with a flushed or restarted broker."""


def is_deaf(unclaimed: int, broker_answers: Callable[[], bool]) -> bool:
    """Whether the consumer is to blame: a broker that is away explains it too, and no new start would help."""
    return unclaimed >= DEAF_OFFERS and broker_answers()
