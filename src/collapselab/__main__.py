"""`python -m collapselab`."""

from collapselab.cli import main

if __name__ == "__main__":
    main()
