"""``python -m pyro_citevae.cli``, as every process of a fit on several devices starts."""

from pyro_citevae.cli.app import main

if __name__ == "__main__":
    main()
