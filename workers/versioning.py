"""Which version of the workflow code this process runs, as Temporal's worker versioning names it."""

import hashlib
from functools import lru_cache

from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.worker import WorkerDeploymentConfig

from workers.settings import REPOSITORY, get_settings

DEPLOYMENT_NAME = "orderwright"

# What a workflow's decisions depend on: a change to any of these is a new build.
_SOURCES = ("workflows", "models", "policies")


def current_build_id() -> str:
    """``ORDERWRIGHT_DEPLOYMENT_BUILD_ID``, or else a digest of the workflow, model and policy sources."""
    return get_settings().deployment_build_id or _source_digest()


def worker_deployment() -> WorkerDeploymentConfig:
    """What every workflow worker declares.

    Runs move to the newest build by themselves and stay replayable through patches: a pinned run would be
    stuck once its build is gone, and one machine keeps only one build.
    """
    return WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(deployment_name=DEPLOYMENT_NAME, build_id=current_build_id()),
        use_worker_versioning=True,
        default_versioning_behavior=VersioningBehavior.AUTO_UPGRADE,
    )


@lru_cache(maxsize=1)
def _source_digest() -> str:
    digest = hashlib.sha256()
    for folder in _SOURCES:
        for source in sorted((REPOSITORY / folder).rglob("*.py")):
            digest.update(str(source.relative_to(REPOSITORY)).encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
