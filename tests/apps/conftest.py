from tests.activities.conftest import running_simulators, street

__all__ = ["running_simulators", "street"]
