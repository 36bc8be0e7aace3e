"""The command ``ida-lightning``, also as ``python -m ida_lightning``."""

from __future__ import annotations

import sys

import torch.distributed as dist

from ida_lightning.cli import one_line
from ida_lightning.cli.messages import importing_from_here
from ida_lightning.errors import InputError
from ida_lightning.studies.audit.command import AuditCLI
from ida_lightning.studies.compare import compare
from ida_lightning.studies.predict import is_from_weights, predict_images


def main(args: list[str] | None = None) -> None:
    """Run the command line; what the caller got wrong is one line on stderr and exit code 2.

    Args:
        args: the arguments; None takes them from the command line.
    """
    given = sys.argv[1:] if args is None else args
    try:
        with importing_from_here():
            if given[:1] == ["compare"]:
                failed = compare(given[1:])
                if failed:
                    raise SystemExit(failed)
            elif is_from_weights(given):
                predict_images(given[1:])
            else:
                AuditCLI(args).run()
    except InputError as error:
        print(f"ida-lightning: {one_line(str(error))}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None
    # Gloo aborts now and then if the interpreter exits with the group still up. After a failure the other
    # processes may be gone, and leaving the group could wait for them.
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
