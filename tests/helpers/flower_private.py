"""Every name of Flower's that FedShield uses and Flower does not document: another version may change it unannounced.

Before another version of Flower is allowed in ``pyproject.toml``, run the tests that are named here.
"""

from typing import NamedTuple


class Use(NamedTuple):
    """Private names that serve one purpose.

    Attributes:
        why: they are needed.
        test: fails when they no longer do what they did.
        names: with their module; or a command, an option or a word of Flower's. ``test_flower_private.py`` finds these
            in the code.
        members: of objects, and words, of which the code alone does not tell that they are Flower's.
    """

    why: str
    test: str
    names: tuple[str, ...]
    members: tuple[str, ...] = ()


GRID = "flwr.superlink.grid.http_grid.HttpGrid"
INFLATABLE = "flwr.supercore.inflatable"
RPC = "flwr.supercore.runtime.runtime_http_client.RuntimeHttpClient"
STATE = "flwr.server.superlink.linkstate.sql_linkstate.SqlLinkState"
TABLES = "flwr.supercore.state.schema.linkstate_models"
CONNECTION = "flwr.supernode.fleet_http_connection"
SUPERNODE = "flwr.supernode.cli.flower_supernode"
SPEAKER = "flwr.supercore.task_identity.TaskIdentity"
DEPLOYED = "test_deployment.py::test_a_federation_over_tls_gives_the_numbers_of_the_simulation"
RESTARTED = "test_restarts.py::test_a_superlink_that_is_killed_in_a_call_costs_no_reply"
HANDED_OUT = "test_restarts.py::test_a_message_is_handed_out_again_until_the_client_has_it"
LOCAL = "test_federation.py::test_a_run_leaves_everything_a_reader_needs"
REGISTERED = "test_deployment.py::test_each_key_has_its_clients_name_and_is_left_as_it_is_the_next_time"

USES = (
    Use(
        "PollingGrid fetches each reply by itself, as soon as it is there, and no more bytes than fit",
        "test_delivery.py::test_a_broken_reply_costs_its_client_alone",
        (
            GRID,
            f"{GRID}._runtime_client",
            "flwr.proto.message_pb2.ConfirmMessageReceivedRequest",
            "flwr.proto.message_pb2.ObjectTree",
            "flwr.proto.runtime_pb2.PullAppMessagesRequest",
            f"{INFLATABLE}.inflatable_object.get_object_body",
            f"{INFLATABLE}.inflatable_object.get_object_head_values_from_object_content",
            f"{INFLATABLE}.inflatable_object.iterate_object_tree",
            f"{INFLATABLE}.inflatable_protobuf_utils.make_pull_object_fn_protobuf",
            f"{INFLATABLE}.inflatable_utils.inflate_object_from_contents",
            f"{INFLATABLE}.inflatable_utils.pull_objects",
        ),
        (f"{GRID}.node", f"{RPC}.PullMessages", f"{RPC}.PullObject", f"{RPC}.ConfirmMessageReceived", "arraychunk_ids"),
    ),
    Use(
        "messages that a SuperLink did not confirm are sent again",
        "test_restarts.py::test_a_superlink_that_keeps_nothing_ends_the_run_with_one_line",
        (f"{INFLATABLE}.inflatable_utils.ObjectPushError",),
    ),
    Use(
        "a reply that the SuperLink has lost is asked for again",
        RESTARTED,
        ("flwr.common.constant.ErrorCode", "flwr.common.constant.ErrorCode.MESSAGE_UNAVAILABLE"),
    ),
    Use(
        "a client whose process has died is not waited for",
        "test_nodes.py::test_clients_that_are_starting_again_are_waited_for",
        ("flwr.common.constant.ErrorCode.NODE_UNAVAILABLE",),
    ),
    Use(
        "the server connects again after a connection that broke while it was made",
        "test_restarts.py::test_a_connection_of_the_server_that_breaks_while_it_is_made_is_made_again",
        (f"{GRID}._retry_invoker",),
        ("flwr.supercore.retry.RetryInvoker.should_giveup",),
    ),
    Use(
        "a client does so too",
        "test_restarts.py::test_a_connection_of_a_client_that_breaks_while_it_is_made_is_made_again",
        (CONNECTION, f"{CONNECTION}.make_simple_http_retry_invoker", "flwr.supercore.retry.RetryInvoker"),
    ),
    Use(
        "a client's heartbeat outlasts a SuperLink whose disk is full",
        "test_restarts.py::test_a_client_is_heard_again_after_a_disk_of_the_superlink_was_full",
        (f"{CONNECTION}.HeartbeatSender", "flwr.supercore.heartbeat.HeartbeatSender"),
    ),
    Use(
        "fedshield-superlink hands a message out again until the client has it",
        HANDED_OUT,
        (
            STATE,
            f"{STATE}.get_message_ins",
            "flwr.common.constant.SUPERLINK_NODE_ID",
            "flwr.supercore.utils.uint64_to_int64",
            f"{TABLES}.MessageIns",
            f"{TABLES}.MessageIns.delivered_at",
            f"{TABLES}.MessageIns.dst_node_id",
            f"{TABLES}.MessageIns.message_id",
            f"{TABLES}.MessageRes",
            f"{TABLES}.MessageRes.reply_to_message_id",
        ),
        (f"{STATE}.session", f"{STATE}.object_store"),
    ),
    Use(
        "and takes a piece of a reply that it has stored already",
        "test_restarts.py::test_a_piece_that_is_stored_already_is_taken_again_and_no_other_in_its_place",
        (f"{STATE}.store_object",),
    ),
    Use(
        "FedShield's commands start Flower's, after their own checks",
        DEPLOYED,
        (
            "flwr.superlink.cli.flower_superlink",
            "flwr.supernode.cli.flower_supernode",
            "flwr.supernode.cli.flwr_clientapp",
            "flwr.supercore.cli.flower_superexec",
            "flower-superexec",
        ),
    ),
    Use(
        "a process that Flower started for one message gives it to the one that stays",
        "test_flower_private.py::test_flower_has_every_name",
        ("flwr-clientapp",),
    ),
    Use(
        "no command line shows a message's token, and the command is forked",
        DEPLOYED,
        (
            "flwr.supercore.superexec.executor.subprocess_executor",
            "flwr.supercore.superexec.executor.subprocess_executor.subprocess",
        ),
        ("--token", "--token-file"),
    ),
    Use(
        "a SuperNode gives messages to its own SuperExec alone",
        "test_forge.py::test_another_users_superexec_gets_no_message",
        (SUPERNODE, f"{SUPERNODE}._start_supernode_http_api"),
        (
            f"{SUPERNODE}.SuperNodeLifespanConfig.isolation",
            f"{SUPERNODE}.SuperNodeLifespanConfig.superexec_auth_secret",
            "--superexec-auth-secret-file",
        ),
    ),
    Use(
        "a SuperNode forgets a message whose run ends while it is fetched",
        "test_ended.py::test_a_message_of_a_run_that_has_ended_is_forgotten",
        (
            "flwr.supernode.start_client_internal",
            "flwr.supernode.start_client_internal._pull_and_store_message",
            "flwr.supercore.run.RunNotRunningException",
        ),
    ),
    Use(
        "a SuperNode's options are checked before it starts, as Flower reads them",
        "test_arguments.py::test_what_fedshield_makes_is_taken",
        (
            "flwr.common.config.parse_config_args",
            "flwr.supercore.constant.SUPERNODE_UVICORN_DEFAULT_PORT",
            "flwr.supercore.constant.UVICORN_DEFAULT_HOST",
        ),
    ),
    Use(
        "an array is serialized only when it leaves the machine, and is an Array there",
        "test_server.py::test_a_live_array_is_flowers_array_to_everyone_else",
        ("flwr.common.constant.SType", "flwr.common.constant.SType.NUMPY", "flwr.app.Array.__qualname__"),
    ),
    Use(
        "LocalGrid does what Flower's launchers and its SuperLink do for messages",
        LOCAL,
        (
            SPEAKER,
            *(f"{SPEAKER}.{name}" for name in ("task_id", "run_id", "node_id")),
            "flwr.supercore.run.Run",
            "flwr.supercore.run.Run.create_empty",
            "flwr.proto.node_pb2.NodeInfo",
            "flwr.app.Metadata._message_id",
        ),
    ),
    Use(
        "Krum and Bulyan choose replies by their weights alone, and then take them whole",
        "test_robust.py::test_without_counters_it_is_flowers_strategy_bit_for_bit",
        ("flwr.serverapp.strategy.multikrum.select_multikrum",),
    ),
    Use(
        "a run by Flower's own engine is one whose clients FedShield did not start",
        "test_flower.py::test_flwr_run_gives_the_same_numbers",
        ("flwr.superlink.grid", "flwr.superlink.grid.inmemory_grid.InMemoryGrid"),
    ),
    Use(
        "fedshield register tells whose each key is",
        REGISTERED,
        (
            "flwr.proto.control_pb2.ListNodesRequest",
            "flwr.proto.control_pb2.RegisterNodeRequest",
            "flwr.supercore.control.ControlHttpClient",
            "flwr.supercore.control.ControlHttpClient.from_server_address",
            "flwr.supercore.primitives.asymmetric.public_key_to_bytes",
        ),
        ("flwr.supercore.control.ControlHttpClient.ListNodes", "flwr.supercore.control.ControlHttpClient.RegisterNode"),
    ),
    Use(
        "a key that was unregistered is told, which Flower never takes again",
        "test_deployment.py::test_a_key_that_is_registered_otherwise_is_told",
        ("flwr.supercore.constant.NodeStatus", "flwr.supercore.constant.NodeStatus.UNREGISTERED"),
    ),
    Use(
        "fedshield submit starts a run by Flower's command line, in a home of its own",
        DEPLOYED,
        ("flwr.cli.app.app", "FLWR_HOME", "FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK"),
        ("Successfully started run ",),
    ),
)
