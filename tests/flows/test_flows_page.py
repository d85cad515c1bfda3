"""docs/flows.md names every flow that is deployed."""

from __future__ import annotations

import re
from pathlib import Path

from cryoflow.cluster.deployments import STAGES, load_flow

PAGE = Path(__file__).resolve().parents[2] / "docs/flows.md"


def test_every_deployed_flow_is_on_the_page() -> None:
    named = set(re.findall(r"`([a-z ]+)`", PAGE.read_text()))
    assert {load_flow(stage).name for stage in STAGES} <= named
