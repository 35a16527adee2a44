"""A scenario's settings, held against the services' own: each exists, and all fit together.

A service would refuse them too, but only when it starts, and a lab would wait for it in vain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from evac_api.settings import Settings as ApiSettings
from evac_common.cli.document import Document
from evac_common.errors import SettingsRefused
from evac_common.service.settings import ServiceSettings
from evac_compute.settings import Settings as ComputeSettings
from evac_lab.scenario.document import ScenarioDocument
from evac_monitor.settings import Settings as MonitorSettings
from evac_scheduler.settings import Settings as SchedulerSettings

SETTINGS: Final[Mapping[str, type[ServiceSettings]]] = {
    "api": ApiSettings,
    "scheduler": SchedulerSettings,
    "monitor": MonitorSettings,
    "compute": ComputeSettings,
}


def refused_settings(document: ScenarioDocument, yaml: Document) -> list[str]:
    """What is wrong with them: place and rule, one a line."""
    problems = []
    given: dict[str, dict[str, Any]] = {}
    for key, value in document.settings.items():
        service, _, name = key.partition(".")
        where = yaml.where(["settings", key])
        if service not in SETTINGS or not name:
            rule = f"a setting is SERVICE.FIELD, SERVICE one of {', '.join(SETTINGS)}"
            problems.append(f"{where}: {rule}")
        elif name not in SETTINGS[service].model_fields:
            problems.append(f"{where}: evac-{service} has no such setting")
        else:
            given.setdefault(service, {})[name] = value
    if problems:
        return problems
    for service, values in given.items():
        try:
            SETTINGS[service].load(None, **{"profile": document.profile, **values})
        except SettingsRefused as error:
            problems.append(f"{yaml.where(['settings'])}: {service}: {error}")
    return problems
