"""`python -m seedfast`: the command line, also under torchrun."""

from seedfast.cli import main

main()
