import threading

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect

from activities.store.migrate import alembic_config, migrate
from models.errors import NotReachable
from models.tables.schema import metadata
from workers.embedded.postgres import EmbeddedPostgres


def differences(url: str) -> list[object]:
    engine = create_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        found: list[object] = compare_metadata(context, metadata)
    engine.dispose()
    return found


def test_a_migrated_database_is_exactly_what_the_tables_say(fresh_database: str) -> None:
    assert differences(fresh_database) == []


def test_the_checks_in_the_database_are_those_of_the_tables(fresh_database: str) -> None:
    # Autogenerate does not look at checks, and a state missing in one would stop every order that reaches it.
    engine = create_engine(fresh_database)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA built; SET search_path = built")
        metadata.create_all(connection)
        built, migrated = (
            {
                (table, check["name"], check["sqltext"])
                for table in metadata.tables
                for check in inspect(connection).get_check_constraints(table, schema=schema)
            }
            for schema in ("built", "public")
        )
    engine.dispose()
    assert len(built) > 20
    assert migrated == built


def test_two_migrations_at_once_make_the_database_and_both_end_well(
    database_server: EmbeddedPostgres,
) -> None:
    url = database_server.url("made_twice")
    failures: list[BaseException] = []

    def run() -> None:
        try:
            migrate(url)
        except BaseException as failure:
            failures.append(failure)

    both = [threading.Thread(target=run) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join(60)
    assert failures == []
    assert differences(url) == []


def test_a_migration_can_be_taken_back_and_applied_again(database_server: EmbeddedPostgres) -> None:
    url = database_server.url("there_and_back")
    migrate(url)
    engine = create_engine(url)
    with engine.begin() as connection:
        command.downgrade(alembic_config(connection), "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    engine.dispose()
    migrate(url)
    assert differences(url) == []


def test_stock_that_was_there_before_movements_opens_them(database_server: EmbeddedPostgres) -> None:
    url = database_server.url("opened")
    migrate(url)
    engine = create_engine(url)
    with engine.begin() as connection:
        command.downgrade(alembic_config(connection), "0012_stock_movements-1")
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO nodes VALUES ('north', 'north', 'GB', 'Europe/London', 0, true)"
        )
        connection.exec_driver_sql(
            "INSERT INTO stock VALUES ('north', 'A', 7, 3), ('north', 'B', 2, 0), ('north', 'C', 0, 0)"
        )
    migrate(url)
    with engine.begin() as connection:
        # What the version before does to it.
        connection.exec_driver_sql("UPDATE stock SET reserved = reserved + 1 WHERE sku = 'B'")
        found = connection.exec_driver_sql(
            "SELECT sku, kind, on_hand, reserved, actor FROM stock_movements ORDER BY movement_id"
        ).all()
    engine.dispose()
    assert [tuple(row) for row in found] == [
        ("A", "opening", 7, 3, "orderwright"),
        ("B", "opening", 2, 0, "orderwright"),
        ("B", "unexplained", 0, 1, "postgres"),
    ]


def test_a_server_that_does_not_answer_is_named() -> None:
    with pytest.raises(NotReachable, match="/nowhere"):
        migrate("postgresql+psycopg://postgres@/orderwright?host=/nowhere", wait=0)
