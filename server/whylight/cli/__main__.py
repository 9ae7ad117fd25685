"""Makes ``python -m whylight.cli`` the command line; knows nothing else."""

from whylight.cli import main

main()
