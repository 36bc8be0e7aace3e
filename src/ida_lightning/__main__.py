"""The command ``ida-lightning``, also as ``python -m ida_lightning``."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version

import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException

from ida_lightning.cli import one_line
from ida_lightning.cli.help import top_help, unknown_command
from ida_lightning.cli.messages import importing_from_here
from ida_lightning.errors import InputError
from ida_lightning.lightning_internals import Terminated
from ida_lightning.studies.audit.command import AuditCLI
from ida_lightning.studies.compare import compare
from ida_lightning.studies.demo import run_demo
from ida_lightning.studies.export import export_network
from ida_lightning.studies.predict import is_from_weights, predict_images


def main(args: list[str] | None = None) -> None:
    """Run the command line; what the caller got wrong is one line on stderr and exit code 2.

    A run that was ended by SIGTERM has exit code 143, as a process has that does not handle the signal. With several
    processes, those that only notice that another one has failed say so in one line.

    Args:
        args: the arguments; None takes them from the command line.
    """
    given = sys.argv[1:] if args is None else args
    try:
        with importing_from_here():
            if text := _about(given):
                print(text)  # noqa: T201
            elif given[:1] == ["compare"]:
                failed = compare(given[1:])
                if failed:
                    raise SystemExit(failed)
            elif given[:1] == ["export"]:
                export_network(given[1:])
            elif given[:1] == ["demo"]:
                run_demo(given[1:])
            elif is_from_weights(given):
                predict_images(given[1:])
            else:
                AuditCLI(args).run()
    except (InputError, MisconfigurationException) as error:
        print(f"ida-lightning: {one_line(str(error))}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None
    except Terminated:
        raise SystemExit(128 + signal.SIGTERM) from None
    except RuntimeError as error:
        if not _lost_the_others(error):
            raise
        print(  # noqa: T201
            f"ida-lightning: process {dist.get_rank()} ends because another one has ended, which says why",
            file=sys.stderr,
        )
        sys.stderr.flush()
        os._exit(1)  # leaving the group, or waiting for its threads, could take for ever
    # Gloo aborts now and then if the interpreter exits with the group still up. After a failure the other
    # processes may be gone, and leaving the group could wait for them.
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _about(given: Sequence[str]) -> str | None:
    """Return what is printed for arguments that run no command, None for others."""
    if given[:1] == ["--version"]:
        return f"ida-lightning {version('ida-lightning')}"
    if given[:1] in (["--help"], ["-h"], ["--help_all"]):
        return top_help().rstrip()
    if complaint := unknown_command(given):
        raise InputError(complaint)
    return None


def _lost_the_others(error: RuntimeError) -> bool:
    """Say whether an error is only that another process of the run does not answer any more."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return False
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo/transport", "NCCL"))


if __name__ == "__main__":
    main()
