"""`python -m clipflow`, which is also how `accelerate launch -m clipflow` starts each process."""

from clipflow.cli import main

main()
