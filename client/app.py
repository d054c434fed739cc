"""The ClientApp: a message with the global model comes in, a message with the locally trained one goes out."""

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from client import resident
from common.errors import FedShieldError
from common.packing import is_packed, pack, unpack


def _name_mistakes(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Answer a mistake that the user can mend with its one line, on every engine; the server knows whose it is."""
    try:
        return call_next(message, context)
    except FedShieldError as error:
        return Message(Error(code=0, reason=str(error)), reply_to=message)


def _unpack_arrays(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
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
def enlist(message: Message, context: Context) -> Message:
    """Tell which client runs on this node; see ``client.work``."""
    return Message(_do("enlist", message, context), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the received model; see ``client.work``."""
    return Message(_do("train", message, context), reply_to=message)


def _do(task: str, message: Message, context: Context) -> RecordDict:
    """Do a task where it costs least: Flower's network clients start a process for each message."""
    if resident.wanted():
        done = resident.ask(task, message.content, context.run_config, context.node_config)
        if done is not None:
            return done
    from client.work import TASKS  # imports torch

    return TASKS[task](message.content, context.run_config, context.node_config)
