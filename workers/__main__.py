"""`python -m workers`: this machine's worker, which is `workers.agent`."""

from jsm_queue.interrupts import end_at_once


def main() -> int:
    """Returns the exit status."""
    with end_at_once():
        from workers import agent
    return agent.main()


if __name__ == "__main__":
    raise SystemExit(main())
