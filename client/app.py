"""The ClientApp: a message with the global model comes in, a message with the locally trained one goes out."""

import logging
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from client.supernode import worker
from common.errors import FedShieldError, explain_os_errors
from common.messages.packing import is_packed, pack, unpack
from common.messages.protocol import DATA_PATH, FINE_TUNE, IDENTIFY, TRAIN
from common.words import visible, without_folders

log = logging.getLogger("fedshield")

CallNext = Callable[[Message, Context], Message]  # of Flower's mods


def _name_mistakes(message: Message, context: Context, call_next: CallNext) -> Message:
    """Answer a mistake that the user can fix with its one-line message, on every engine; the server knows whose it is.

    Over a network, the client's own log has the full text; the server, which is another party's, sees no folder of it.
    """
    try:
        with explain_os_errors():
            return call_next(message, context)
    except Exception as error:
        mistake, far = isinstance(error, FedShieldError), worker.over_network()
        if not mistake and not far:  # a bug, which the engine reports
            raise
        words = str(error) if mistake else f"{type(error).__name__}: {error}"
        if far:
            log.error("this client cannot do what was asked: %s", visible(words), exc_info=None if mistake else error)
            place = str(context.node_config.get(DATA_PATH, ""))  # which may be relative
            words = without_folders(words)
            if "/" in place:
                words = words.replace(place, Path(place).name)
        return Message(Error(code=0, reason=words), reply_to=message)


def _unpack_arrays(message: Message, context: Context, call_next: CallNext) -> Message:
    """Reply in kind to a server that packs its arrays, as it does over a network."""
    if not is_packed(message.content):
        return call_next(message, context)
    message.content = unpack(message.content)
    reply = call_next(message, context)
    if reply.has_content():
        reply.content = pack(reply.content)
    return reply


app = ClientApp(mods=[_unpack_arrays, _name_mistakes])


@app.query()
def identify(message: Message, context: Context) -> Message:
    """Tell which client runs on this node; see ``client.tasks``."""
    return Message(_do(IDENTIFY, message, context), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the received model; see ``client.tasks``."""
    return Message(_do(TRAIN, message, context), reply_to=message)


@app.evaluate()
def fine_tune(message: Message, context: Context) -> Message:
    """Train the last model further, for this client alone; see ``client.tasks``."""
    return Message(_do(FINE_TUNE, message, context), reply_to=message)


def _do(task: str, message: Message, context: Context) -> RecordDict:
    """Do a task where it costs least: Flower's network clients start a process for each message."""
    if worker.is_used():
        done = worker.request(task, message.content, context.run_config, context.node_config, context.state)
        if done is not None:
            reply, context.state = done
            return reply
    from client.tasks import TASKS  # imports torch

    return TASKS[task](message.content, context.run_config, context.node_config, context.state)
