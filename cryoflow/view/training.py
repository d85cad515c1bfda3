"""Start a training on a reviewed entry as a run of a flow that `cryoflow deploy` registered, and read its progress.

The requests go to Prefect's REST API, not through its library, which takes seconds to import:
`GET /deployments/name/{flow}/{deployment}`, `POST /deployments/{id}/create_flow_run`, `GET /flow_runs/{id}` and
`POST /artifacts/filter`.
"""

from __future__ import annotations

import base64
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote
from uuid import UUID

from cryoflow.detector.parameters import TrainDetectorParameters
from cryoflow.errors import CryoflowError
from cryoflow.settings.profiles import ProfileName, deployment_name
from cryoflow.storage.safe_names import safe_name
from cryoflow.unpicker.parameters import TrainUnpickerParameters

Trained = Literal["unpicker", "detector"]
FLOWS: Mapping[Trained, str] = {"unpicker": "train unpicker", "detector": "train detector"}
"""Name of the flow that trains each of our two networks."""
ENDED = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
"""Types of the states that a run does not leave by itself."""
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Started:
    """A run: its id, the address of its page, and the folder of its model."""

    run: str
    page: str
    model: Path


@dataclass(frozen=True)
class RunProgress:
    """State of a run as Prefect names it, and percent done where the run has published them."""

    state: str
    ended: bool
    percent: float | None


class CannotStart(CryoflowError):
    """There is no server that runs trainings, or it refuses."""


@dataclass(frozen=True)
class Trainings:
    """Trainings of one site.

    Attributes
    ----------
    database
        Folder of the database that holds the entries.
    server
        Address of Prefect's server.
    place
        Where stages run: the flows are registered for each place by itself.
    models
        Folder that the folders of models are made in.
    """

    database: Path
    server: str
    place: ProfileName
    models: Path

    def start(self, entry: str, trained: Trained) -> Started:
        """Start a training on an entry's labels.

        Raises
        ------
        CannotStart
            Where the server does not answer, refuses, or has no such deployment.
        """
        name = safe_name(entry.replace("/", "_"))
        model = self.models / (name if trained == "unpicker" else f"{name}_detector")
        parameters: TrainUnpickerParameters | TrainDetectorParameters
        if trained == "unpicker":
            parameters = TrainUnpickerParameters(database=self.database, entries=(entry,), model=model)
        else:
            parameters = TrainDetectorParameters(database=self.database, entries=(entry,), output=model)
        flow = FLOWS[trained]
        found = _ask(f"{self._api}/deployments/name/{quote(flow)}/{quote(deployment_name(flow, self.place))}")
        values = {"parameters": {"parameters": parameters.to_json()}, "name": f"train {model.name}"}
        answer = _ask(f"{self._api}/deployments/{quote(_text(found, 'id'))}/create_flow_run", values)
        run = _text(answer, "id")
        return Started(run, f"{self.server.rstrip('/')}/runs/flow-run/{quote(run)}", model)

    def progress(self, run: UUID) -> RunProgress:
        """Return how far a run is.

        Raises
        ------
        CannotStart
            Where the server does not answer, or has no such run.
        """
        answer = _ask(f"{self._api}/flow_runs/{run}")
        wanted = {"flow_run_id": {"any_": [str(run)]}, "type": {"any_": ["progress"]}}
        found = _ask(f"{self._api}/artifacts/filter", {"artifacts": wanted, "sort": "CREATED_DESC", "limit": 1})
        data = found[0].get("data") if isinstance(found, list) and found and isinstance(found[0], dict) else None
        percent = float(data) if isinstance(data, int | float) and not isinstance(data, bool) else None
        return RunProgress(_text(answer, "state_name"), _text(answer, "state_type") in ENDED, percent)

    @property
    def _api(self) -> str:
        return f"{self.server.rstrip('/')}/api"


def _text(answer: object, name: str) -> str:
    value = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(value, str):
        raise CannotStart(f"Prefect's server: its answer has no {name}.")
    return value


def _ask(address: str, record: Mapping[str, object] | None = None) -> object:
    if not address.startswith(("http://", "https://")):
        raise CannotStart(f"{address}: the server's address does not start with http:// or https://.")
    secret = os.environ.get("PREFECT_API_AUTH_STRING", "")
    headers = {"content-type": "application/json"}
    if secret:
        headers["authorization"] = f"Basic {base64.b64encode(secret.encode()).decode()}"
    body = None if record is None else json.dumps(record).encode()
    request = urllib.request.Request(address, body, headers)  # noqa: S310  # checked above
    try:
        with urllib.request.urlopen(request, timeout=15) as answer:  # noqa: S310
            return json.loads(answer.read(_MOST_BYTES))
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise CannotStart(f"{address}: not there. 'cryoflow deploy' registers the flows.") from None
        raise CannotStart(f"{address}: refused with status {error.code}.") from None
    except (OSError, ValueError) as error:
        raise CannotStart(f"{address}: {error}. Is Prefect's server running ('cryoflow up')?") from None
