"""The database of the settings, made ready as the stack does it."""

import os
import subprocess
import sys
from pathlib import Path

from activities.store.network import network
from activities.store.store import Store
from workers.embedded.postgres import EmbeddedPostgres
from workers.settings import REPOSITORY


def prepare(database_url: str, network_file: Path) -> subprocess.CompletedProcess[str]:
    settings = {"DATABASE_URL": database_url, "ORDERWRIGHT_NETWORK_FILE": str(network_file)}
    return subprocess.run(
        [sys.executable, "-m", "workers.prepare"],
        cwd=REPOSITORY,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )


async def test_a_database_that_is_missing_is_made_with_the_network_of_the_settings(
    database_server: EmbeddedPostgres, tmp_path: Path
) -> None:
    url = database_server.url("ow_prepared")
    ours = tmp_path / "network.toml"
    for name in ("network.toml", "centroids.csv"):
        (tmp_path / name).write_text((REPOSITORY / "examples" / name).read_text())
    done = prepare(url, ours)
    assert done.returncode == 0, done.stderr
    assert "stock_rows_added=0" in done.stderr, "the example's stock is for the example's network alone"
    store = Store.at(url)
    async with store.transaction() as session:
        assert (await network(session)).nodes
    await store.close()


def test_a_network_that_cannot_be_used_is_one_clear_message(fresh_database: str, tmp_path: Path) -> None:
    done = prepare(fresh_database, tmp_path / "none.toml")
    assert done.returncode == 2
    assert "none.toml: there is no such file" in done.stderr
    assert "Traceback" not in done.stderr
