"""`python -m deployments.cli`, the same as `text2mask`."""

from deployments.cli import main

main()
