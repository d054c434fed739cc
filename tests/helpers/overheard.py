"""What clients and liars really send."""

from common.messages.records import to_state
from simulations.engine.byzantine import ByzantineExecutor


class Overheard(ByzantineExecutor):
    """Keeps what is sent in the first round."""

    def run(self, jobs, timeout):  # type: ignore[no-untyped-def]
        for reply, state in super().run(jobs, timeout):
            if jobs and "config" in jobs[0].message.content:
                self.before = to_state(jobs[0].message.content.array_records["arrays"])
                self.heard.setdefault(reply.metadata.src_node_id - 2, to_state(reply.content.array_records["arrays"]))
            yield reply, state
