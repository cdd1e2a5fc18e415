"""`python -m lmtest.cli`: the same as `lmtest`."""

from lmtest.cli import main

if __name__ == "__main__":
    main()
