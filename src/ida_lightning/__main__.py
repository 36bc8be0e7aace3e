"""``python -m ida_lightning``."""

from ida_lightning.cli import main

main()
