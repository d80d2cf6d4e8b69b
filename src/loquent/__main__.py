"""Runs the command line: python -m loquent."""

from loquent.cli import main

if __name__ == "__main__":
    main()
