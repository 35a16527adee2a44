from tests.unit.api.conftest import cluster, migrated

__all__ = ["cluster", "migrated"]
