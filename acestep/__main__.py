"""`python -m acestep` is the command line."""

from acestep.cli import main

if __name__ == "__main__":
    main()
