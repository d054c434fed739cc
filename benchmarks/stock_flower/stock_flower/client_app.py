"""stock_flower: the ClientApp."""

from functools import partial

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from stock_flower.task import Net, load_data, log_event
from stock_flower.task import train as train_fn

# Flower ClientApp
app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train the model on local data."""
    config = context.run_config
    if threads := int(config["threads"]):
        torch.set_num_threads(threads)

    # Load the model and initialize it with the received weights
    model = Net()
    model.load_state_dict(msg.content.array_records["arrays"].to_torch_state_dict())
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    model.to(device)

    # Load the data
    partition_id = int(context.node_config["partition-id"])
    num_partitions = int(context.node_config["num-partitions"])
    trainloader = load_data(
        str(config["data-path"]), partition_id, num_partitions, int(config["examples"]), int(config["batch-size"])
    )

    # Call the training function
    lr, server_round = (msg.content.config_records["config"][key] for key in ("lr", "server-round"))
    log = partial(log_event, config, client=partition_id, round=int(server_round))  # type: ignore[arg-type]
    train_loss = 0.0
    if config["local-epochs"]:
        train_loss = train_fn(model, trainloader, config, float(lr), device, partial(log, "first-step"))  # type: ignore[arg-type]
    else:
        log("first-step")

    # Construct and return reply Message
    model_record = ArrayRecord(model.state_dict())
    examples = len(trainloader.dataset)  # type: ignore[arg-type]
    metric_record = MetricRecord({"train_loss": train_loss, "num-examples": examples})
    content = RecordDict({"arrays": model_record, "metrics": metric_record})
    log("client")
    return Message(content=content, reply_to=msg)
