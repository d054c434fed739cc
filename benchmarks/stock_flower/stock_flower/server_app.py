"""stock_flower: the ServerApp."""

from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from stock_flower.task import Net, log_event, wait_for_turn

# Create ServerApp
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Main entry point for the ServerApp."""
    config = context.run_config
    log_event(config, "server")

    # Load global model
    global_model = Net()
    arrays = ArrayRecord(global_model.state_dict())

    # Initialize FedAvg strategy
    strategy = FedAvg(fraction_evaluate=float(config["fraction-evaluate"]))

    def log_round(server_round: int, arrays: ArrayRecord) -> None:
        """Log the round, instead of a central evaluation; round 0 is before the first one."""
        log_event(config, "round", round=server_round)
        wait_for_turn(config, server_round + 1)
        log_event(config, "turn", round=server_round + 1)

    # Start strategy, run FedAvg for `num_rounds`
    strategy.start(
        grid=grid,
        initial_arrays=arrays,
        train_config=ConfigRecord({"lr": float(config["learning-rate"])}),
        num_rounds=int(config["num-server-rounds"]),
        evaluate_fn=log_round,
    )
    log_event(config, "done")
