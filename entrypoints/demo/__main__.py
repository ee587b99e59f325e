"""`make demo`: the whole system on this machine, a real model, one question, and what happened on the way."""

import argparse
import asyncio
import signal
import sys

from entrypoints.demo.model import DemoModelError
from entrypoints.demo.run import DemoFailedError, run_demo
from entrypoints.up import CannotStartError
from stoker.logging import configure_logging


def main() -> int:
    """0 when the model answered, 1 on any failure, 130 when interrupted before it did."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--exit", action="store_true", help="end after the answer instead of staying up")
    stay = not parser.parse_args().exit
    configure_logging("demo", "warning")
    try:
        return asyncio.run(_interruptible(stay))
    except (CannotStartError, DemoModelError, DemoFailedError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


async def _interruptible(stay: bool) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    answered = await run_demo(stay=stay, stop=stop)
    await asyncio.sleep(0.1)  # lets the Temporal SDK's threads end: see control_plane
    return 0 if answered else 130


if __name__ == "__main__":
    sys.exit(main())
