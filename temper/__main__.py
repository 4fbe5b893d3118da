"""`python -m temper`: the command line."""

from temper.cli import main

main()
