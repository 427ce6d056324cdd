"""`python -m tests.chaos.api`: the api, in which a bug can be planted.

CHAOS_BUG   the bug's name; without it there is none
"""

from api import __main__ as real
from tests.chaos.apibugs import planted

if __name__ == "__main__":
    with planted():
        real.main()
