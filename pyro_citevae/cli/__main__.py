"""``python -m pyro_citevae.cli``, as the version before had it for ``python -m pyro_citevae``."""

from pyro_citevae.cli.app import main

if __name__ == "__main__":
    main()
