"""The stages as Prefect flows: one stage, one flow; thin tasks around functions of `cryoflow`.

Importing this package sets what Prefect reads from the environment when it is imported: no telemetry, and quiet logs.
A value that is set already stays.
"""

import os

for _name, _value in {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_TASKS_REFRESH_CACHE": "false",
}.items():
    os.environ.setdefault(_name, _value)
