"""`python -m tests.chaos --seed 1 --faults 200`: sixty jobs on six machines while everything goes wrong.

The last line says how many jobs were lost, doubled or orphaned, and whether the decisions are those of a calm run.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from tests.chaos.run import Outcome, Plan, run


def main() -> int:
    """The command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--database", choices=("sqlite", "postgres"), help="without it by the seed: odd ones Postgres")
    parser.add_argument("--short", action="store_true", help="a smaller study with shorter steps")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="jsm-chaos-"))
    outcome = run(
        plan(given.seed, given.faults, given.database, given.short), folder, lambda line: print(line, flush=True)
    )
    tell(given.seed, outcome)
    if outcome.wrong:
        print(f"everything is kept in {folder}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def plan(seed: int, faults: int, database: str | None, short: bool) -> Plan:
    """Steps are so long that the study lasts as long as the faults."""
    database = database or ("postgres" if seed % 2 else "sqlite")
    if short:
        return Plan(seed, faults, database, short, step_s=0.2, every_s=1.5, limit_s=250)
    return Plan(seed, faults, database, short, step_s=3.0, every_s=2.5, limit_s=1200)


def tell(seed: int, outcome: Outcome) -> None:
    """What fell, what it led to, and what must not have."""
    for name, count in sorted(outcome.faults.items()):
        print(f"  {count:4}  {name}")
    ends = ", ".join(f"{count} {reason}" for reason, count in outcome.attempts.most_common())
    print(f"attempts: {ends}; {outcome.resumed} results resumed; {outcome.deaths} parts started again")
    for line in outcome.wrong:
        print(f"WRONG: {line}")
    counts = [
        sum(line.startswith(word) for line in outcome.wrong) for word in ("lost", "doubled", "orphans", "process")
    ]
    same = not any("decisions" in line for line in outcome.wrong)
    print(
        f"chaos seed {seed}: {outcome.faults.total()} faults, {outcome.jobs} jobs done, {counts[0]} lost, "
        f"{counts[1]} doubled, {counts[2]} orphan records, {counts[3]} leaked processes, "
        f"decisions {'the same' if same else 'DIFFERENT'}, {len(outcome.wrong)} problems ({outcome.seconds:.0f} s)"
    )


if __name__ == "__main__":
    raise SystemExit(main())
