"""``citevae`` and ``python -m pyro_citevae``: signals are heeded before anything large is imported."""

import sys

from pyro_citevae.signals import Stopped, heeded


def main() -> None:
    """Runs the command line."""
    with heeded():
        try:
            from pyro_citevae.cli import main as run

            run()
        except Stopped as stop:  # before the command line, which has more to say, was there
            sys.stderr.write(f"{stop}\n")
            sys.exit(stop.exit_code)


if __name__ == "__main__":
    main()
