"""A deployment with several replicas under mixed load: what the runs that do something to it have in common."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from entrypoints.demo.model import fetch_demo_model
from tests.builders import write_tiny_llama
from tests.live.load import Asked, Key, Turn
from tests.live.long_run import add_folder_option, engine_folder
from tests.live.questions import questions
from tests.live.system import LiveSystem

MODEL = "m"
PROMPT = "Count from one to ten."
QUEUE = 2000  # so many may wait: what is looked at is not how much two cores can do


def add_options(parser: argparse.ArgumentParser, *, rate: float, replicas: int) -> None:
    """The options of such a run; `rate` and `replicas` are its defaults."""
    parser.add_argument("--rate", type=float, default=rate, help="requests a second")
    parser.add_argument("--replicas", type=int, default=replicas)
    parser.add_argument("--slots", type=int, default=4, help="of each replica")
    parser.add_argument("--model", choices=("tiny", "smollm2"), default="tiny")
    parser.add_argument("--long", type=int, default=120, help="tokens of a streamed answer")
    add_folder_option(parser)


@contextmanager
def replicas(args: argparse.Namespace, folder: Path) -> Iterator[tuple[LiveSystem, Path]]:
    """A system on which the model runs as the options say, and the model. The worker also reads `folder`/models."""
    models = folder / "models"
    models.mkdir()
    model = fetch_demo_model() if args.model == "smollm2" else write_tiny_llama(models / "tiny.gguf", context=8192)
    engine = engine_folder() / "llama-server"
    model_dirs = list(dict.fromkeys([model.parent, models]))
    with LiveSystem(folder, processes=2, model_dirs=model_dirs, llama_server=engine) as system:
        system.deploy(MODEL, model, replicas=args.replicas, slots=args.slots, queue=QUEUE)
        yield system, model


def make_turns(system: LiveSystem, long: int) -> list[Turn]:
    """Whole and streamed requests in turns, the streamed ones of `long` tokens."""
    key = Key("app", *system.new_key("app"))
    short, longer = questions(MODEL, tokens=4, prompt=PROMPT), questions(MODEL, tokens=long, prompt=PROMPT)
    return [
        Turn(longer["chat streamed"], key),
        Turn(short["chat"], key),
        Turn(longer["text streamed"], key),
        Turn(short["text"], key),
    ]


def is_streamed(one: Asked) -> bool:
    """Whether a stream was asked for."""
    return bool(one.turn.question.body["stream"]) if "stream" in one.turn.question.body else False


def is_streaming(one: Asked) -> bool:
    """Whether its client had seen a part of a stream."""
    return is_streamed(one) and one.first_byte is not None
