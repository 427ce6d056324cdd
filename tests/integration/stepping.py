"""`python -m tests.integration.stepping`: the agent, whose runners take the steps of `tests.chaos.kinds`, each of
CHAOS_STEP_S seconds.
"""

from workers import agent, slots

if __name__ == "__main__":
    slots.RUNNER = ("-m", "tests.chaos.runner")
    raise SystemExit(agent.main())
