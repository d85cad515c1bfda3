"""The stages as Prefect flows: one stage, one flow; thin tasks around functions of `cryoflow`.

Importing this package sets what Prefect reads from the environment when it is imported. A value that is set already
stays, and so does what a Prefect profile says.
"""

import os

from cryoflow.settings.prefect_files import guard_prefect

PREFECT_DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # without PREFECT_API_URL the embedded server serves; its first start takes long on a busy machine
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    # records of cryoflow's loggers appear in the run's log; outside a run they are dropped
    "PREFECT_LOGGING_EXTRA_LOGGERS": "cryoflow,flows",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # the outputs know what is done; results stay in memory, and would be text, never pickles, if they were kept
    "PREFECT_TASKS_DEFAULT_NO_CACHE": "true",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
}
guard_prefect()
for _name, _value in PREFECT_DEFAULTS.items():
    os.environ.setdefault(_name, _value)
