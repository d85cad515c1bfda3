"""Start a training of the unpicker on a reviewed entry: a run of the flow that `cryoflow deploy` registered.

Prefect's REST API is asked, not its library, which takes seconds to import: `GET /deployments/name/{flow}/{deployment}`
and `POST /deployments/{id}/create_flow_run`.
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
from urllib.parse import quote

from cryoflow.errors import CryoflowError
from cryoflow.settings.profiles import ProfileName, deployment_name
from cryoflow.storage.safe_names import safe_name
from cryoflow.unpicker.parameters import TrainUnpickerParameters

FLOW = "train unpicker"
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Started:
    """A run: the address of its page, and the folder of its model."""

    page: str
    model: Path


class CannotStart(CryoflowError):
    """There is no server to start runs on, or it refuses."""


def start_training(entry: str, database: Path, *, server: str, place: ProfileName, models: Path) -> Started:
    """Start a training on an entry's labels.

    Parameters
    ----------
    server
        Address of Prefect's server.
    place
        Where stages run: the flow is registered for each place by itself.
    models
        Folder that the model's folder is made in.

    Raises
    ------
    CannotStart
        Where the server does not answer, refuses, or has no such deployment.
    """
    model = models / safe_name(entry.replace("/", "_"))
    parameters = TrainUnpickerParameters(database=database, entries=(entry,), model=model)
    api = f"{server.rstrip('/')}/api"
    found = _ask(f"{api}/deployments/name/{quote(FLOW)}/{quote(deployment_name(FLOW, place))}")
    values = {"parameters": {"parameters": parameters.to_json()}, "name": f"train {model.name}"}
    run = _ask(f"{api}/deployments/{quote(str(found.get('id')))}/create_flow_run", values)
    return Started(f"{server.rstrip('/')}/runs/flow-run/{quote(str(run.get('id')))}", model)


def _ask(address: str, record: Mapping[str, object] | None = None) -> dict[str, object]:
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
            found = json.loads(answer.read(_MOST_BYTES))
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise CannotStart(f"{address}: not there. 'cryoflow deploy' registers the flows.") from None
        raise CannotStart(f"{address}: refused with status {error.code}.") from None
    except (OSError, ValueError) as error:
        raise CannotStart(f"{address}: {error}. Is Prefect's server running ('cryoflow up')?") from None
    if not isinstance(found, dict):
        raise CannotStart(f"{address}: the answer makes no sense.")
    return found
