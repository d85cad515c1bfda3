"""The containers of flow runs in Docker Engine: which there are, and how each ended.

The engine says of a container that it was killed for memory, but not always: `OOMKilled` comes a moment after the end,
or never (moby's issue 38352, and seen on the test bed). So SIGKILL counts as a memory kill unless the engine remembers
that somebody asked for it. Of a container that was there when the engine or its machine stopped, it remembers no end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryoflow.cluster.exit_reason import ExitReason

LABEL_RUN, LABEL_POOL = "io.prefect.flow-run-id", "io.prefect.work-pool-name"
"""Labels of a container, as prefect-docker writes them."""
_KILLED = 137
"""128 and the number of SIGKILL."""
DIE_PATIENCE_S = (1, 3)
"""Seconds to look for the event `die`, from the whole second in which a container ended.

The engine logs it about 0.1 s after the end, which may be in the next second. The longer look waits, so it follows only
where the first found nothing.
"""


class EngineSilent(Exception):
    """Docker Engine does not answer: nothing is known of any container."""


@dataclass(frozen=True)
class RunContainer:
    """One container of a flow run."""

    container_id: str
    flow_run: str
    has_ended: bool


@dataclass(frozen=True)
class EndedContainer:
    """End of a container, as far as the engine has a record."""

    name: str
    exit_code: int
    memory: bool
    """The engine saw the kernel kill for memory in it."""
    asked: bool
    """Somebody asked the engine to stop it."""
    seen: bool
    """The engine was there when it ended."""
    memory_limit_mb: int = 0
    log: str = ""

    @property
    def end(self) -> ExitReason:
        """Return the exit reason, which decides whether the stage is run again."""
        if self.memory or (self.exit_code == _KILLED and self.seen and not self.asked):
            return (
                ExitReason.MEMORY
            )  # also where the first process lived on: the run's own state tells whether that mattered
        if self.exit_code == 0:
            return ExitReason.DONE
        if self.asked:
            return ExitReason.CANCELLED
        return ExitReason.DONE if self.seen else ExitReason.NODE

    def explain(self) -> str:
        """Return the sentence on why the flow run crashed."""
        text = f"The container {self.name} ended with exit code {self.exit_code}"
        if self.end == ExitReason.MEMORY:
            limit = f" of {self.memory_limit_mb} MB" if self.memory_limit_mb else ""
            return (
                f"{text}, OUT_OF_MEMORY. It used more than its limit{limit}: give it more, or work on smaller shards."
            )
        if self.end == ExitReason.CANCELLED:
            return f"{text}. Somebody stopped it with Docker's own commands."
        if self.end == ExitReason.NODE:
            return f"{text}. Docker Engine or its machine was down: run it again."
        if self.exit_code == 0:
            return f"{text}. It could not report its end to Prefect: was the server reachable from it?"
        return f"{text}. It ended before it could report to Prefect; see the end of its log."


class Engine:
    """Docker Engine of this machine, or of the one that DOCKER_HOST names. Each call has a client of its own."""

    def id(self) -> str:
        """Return the engine's identifier, which outlives restarts."""
        with _client() as client:
            return str(client.info()["ID"])

    def containers(self, pool: str) -> list[RunContainer]:
        """Return all containers of a pool's runs, read in one request."""
        with _client() as client:
            rows = client.api.containers(all=True, filters={"label": [f"{LABEL_POOL}={pool}", LABEL_RUN]})
        return [RunContainer(r["Id"], r["Labels"][LABEL_RUN], r["State"] in ("exited", "dead")) for r in rows]

    def ended(self, container_id: str) -> EndedContainer:
        """Return how a container ended, with the last lines of its output."""
        with _client() as client:
            known = client.api.inspect_container(container_id)
            state = known["State"]
            actions: set[str] = set()
            for patience_s in DIE_PATIENCE_S:
                window = {"since": _second(state["StartedAt"]), "until": _second(state["FinishedAt"]) + patience_s}
                events = client.events(**window, filters={"container": container_id}, decode=True)
                actions = {event.get("Action", "") for event in events}
                if "die" in actions:
                    break
            log = client.api.logs(container_id, tail=40).decode(errors="replace")
        return ended_container(known, actions, log)

    def stop(self, container_id: str) -> None:
        """Stop a container by SIGTERM, and by SIGKILL after 10 s."""
        with _client() as client:
            client.api.stop(container_id, timeout=10)

    def remove(self, container_id: str) -> None:
        """Remove a container that has ended."""
        with _client() as client:
            client.api.remove_container(container_id)


def ended_container(known: Mapping[str, Any], actions: set[str], log: str) -> EndedContainer:
    """Return how a container ended, from the engine's record."""
    state = known["State"]
    return EndedContainer(
        name=known["Name"].removeprefix("/"),
        exit_code=state["ExitCode"],
        memory=bool(state["OOMKilled"]) or "oom" in actions,
        asked="kill" in actions,
        seen="die" in actions,
        memory_limit_mb=round(known["HostConfig"]["Memory"] / 1024**2),
        log=log,
    )


def _second(text: str) -> int:
    """Return the engine's time in whole seconds since 1970."""
    return int(datetime.fromisoformat(text[:19]).replace(tzinfo=UTC).timestamp())


@contextmanager
def _client() -> Iterator[Any]:
    import docker
    import requests

    try:
        client = docker.from_env()
    except docker.errors.DockerException as error:
        raise EngineSilent(str(error)) from error
    try:
        yield client
    except requests.exceptions.RequestException as error:
        if isinstance(error, docker.errors.APIError):
            raise
        raise EngineSilent(str(error)) from error
    finally:
        client.close()
