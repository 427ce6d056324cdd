"""The program `jsm`, and `python -m jsm_queue.cli`: what `jsm_queue.cli.main` says."""

from jsm_queue.interrupts import end_at_once, never_swallow


def main() -> None:
    """Ends the process with a status."""
    with end_at_once():
        from jsm_queue.cli.streams import print_anywhere

        print_anywhere()  # the console looks at the streams when it is loaded
        from jsm_queue.cli import main as commands
    never_swallow()
    commands.main()


if __name__ == "__main__":
    main()
