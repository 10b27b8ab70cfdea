"""Entry point of `python -m heatpose.cli`."""

from heatpose.cli import main

if __name__ == "__main__":
    main()
