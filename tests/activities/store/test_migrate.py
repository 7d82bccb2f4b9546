"""What ``migrate`` does with a database that is not as this version left it."""

import os
import subprocess
import sys

import pytest
import structlog
from sqlalchemy import create_engine, text

from activities.store.migrate import migrate
from models.errors import Refused
from tests.architecture.sources import REPOSITORY
from workers.embedded.postgres import EmbeddedPostgres

# As a later version's migration would: something is added, and the revision is one that we do not have.
LATER = """
ALTER TABLE intake ADD COLUMN of_a_later_version text;
CREATE TABLE of_a_later_version (id int PRIMARY KEY);
UPDATE alembic_version SET version_num = '9999'
"""


def run(url: str, *statements: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def revision(url: str) -> str:
    engine = create_engine(url)
    with engine.connect() as connection:
        found = str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one())
    engine.dispose()
    return found


def test_a_database_that_a_later_version_migrated_is_left_as_it_is(fresh_database: str) -> None:
    run(fresh_database, LATER)
    with structlog.testing.capture_logs() as lines:
        migrate(fresh_database)
    assert revision(fresh_database) == "9999"
    (line,) = lines
    assert line["event"] == "the database is newer than this version, and left as it is"
    assert line["database"] == "9999"


def test_preparing_again_after_going_back_to_the_image_before_ends_well(fresh_database: str) -> None:
    run(fresh_database, LATER)
    done = subprocess.run(
        [sys.executable, "-m", "workers.prepare"],
        cwd=REPOSITORY,
        env=os.environ | {"DATABASE_URL": fresh_database},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "the database is newer than this version" in done.stderr
    assert "the database is ready" in done.stderr


def test_a_database_of_another_program_that_uses_alembic_is_refused(
    database_server: EmbeddedPostgres,
) -> None:
    url = database_server.url("ow_of_another_program")
    migrate(url)
    run(url, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    run(url, "CREATE TABLE alembic_version (version_num text); INSERT INTO alembic_version VALUES ('1a2b3c')")
    run(url, "CREATE TABLE orders (id int PRIMARY KEY)")
    with pytest.raises(
        Refused, match=r"1a2b3c, which this version does not know, and lacks .*orders\.order_id"
    ):
        migrate(url)
    assert revision(url) == "1a2b3c"


def test_a_later_database_without_something_that_this_version_needs_is_refused(fresh_database: str) -> None:
    run(fresh_database, LATER, "ALTER TABLE intake DROP COLUMN traceparent")
    with pytest.raises(Refused, match=r"lacks intake\.traceparent: .* a later version took away"):
        migrate(fresh_database)


def test_a_shops_own_database_with_a_table_of_the_same_name_is_refused_and_keeps_its_tables(
    database_server: EmbeddedPostgres,
) -> None:
    url = database_server.url("ow_of_a_shop")
    migrate(url)
    run(url, "DROP SCHEMA public CASCADE; CREATE SCHEMA public; CREATE TABLE orders (id int PRIMARY KEY)")
    with pytest.raises(
        Refused, match=r"'ow_of_a_shop' has tables .*\(orders\): give Orderwright a database of its"
    ):
        migrate(url)
    engine = create_engine(url)
    with engine.connect() as connection:
        tables = connection.exec_driver_sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        assert tables.scalars().all() == ["orders"]
    engine.dispose()
