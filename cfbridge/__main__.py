"""`python -m cfbridge` is `cfbridge`."""

from cfbridge.cli import main

main()
