"""A parent of shards as a process of its own: takes their parameters by name as JSON, and prints how they ended."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, ConfigDict

from cryoflow.cluster.dispatch import Work, run_shards


class Shard(BaseModel):
    """Whatever the flow `shard` takes."""

    model_config = ConfigDict(extra="allow")


if __name__ == "__main__":
    given: dict[str, dict[str, Any]] = json.load(sys.stdin)
    works = [Work(name, Shard(**parameters)) for name, parameters in given.items()]
    print(json.dumps([asdict(done) for done in run_shards("shard", works)]))
