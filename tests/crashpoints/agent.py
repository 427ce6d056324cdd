"""`python -m tests.crashpoints.agent`: the agent, whose runners know the toy kinds; it sends a toy file in pieces."""

from tests.crashpoints import kinds
from workers import agent, client, slots

if __name__ == "__main__":
    slots.RUNNER = ("-m", "tests.crashpoints.runner")
    client.CHUNK = kinds.PIECE
    raise SystemExit(agent.main())
