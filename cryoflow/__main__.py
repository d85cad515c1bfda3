"""`python -m cryoflow`."""

from cryoflow.cli.main import main

main()
