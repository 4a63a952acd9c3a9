"""`python -m glance`."""

from glance.cli import main

main()
