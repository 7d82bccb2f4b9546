"""A stand-alone supervisor of PostgreSQL and Temporal for one data directory, made to be killed by tests.

Usage: ``python -m tests.workers.small_stack DATA_DIR``. Prints one JSON line when both serve, then waits.
"""

import asyncio
import json
import sys
from pathlib import Path

from workers.embedded.children import ChildRecords
from workers.embedded.locks import hold
from workers.embedded.postgres import EmbeddedPostgres
from workers.embedded.supervisor import Supervisor
from workers.embedded.temporal import EmbeddedTemporal


async def main(data_dir: Path) -> None:
    records = ChildRecords(data_dir / "children.json")
    lock = hold(data_dir, end_orphans=lambda: print(f"ended {records.end_orphans()}", file=sys.stderr))
    supervisor = Supervisor(records=records, lock_fd=lock.fd)
    postgres = EmbeddedPostgres(data_dir)
    postgres.prepare()
    temporal = EmbeddedTemporal(data_dir)
    await asyncio.gather(supervisor.start(postgres.child()), supervisor.start(temporal.child()))
    postgres.create_database()
    print(
        json.dumps({"pids": supervisor.pids(), "url": postgres.url(), "address": temporal.address}),
        flush=True,
    )
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
