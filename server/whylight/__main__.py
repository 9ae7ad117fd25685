"""Makes ``python -m whylight`` the command line; knows nothing else."""

from whylight.cli import main

if __name__ == "__main__":
    main()
