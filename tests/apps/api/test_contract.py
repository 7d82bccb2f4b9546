"""Whatever a caller makes of the OpenAPI document, the API keeps to it: schemathesis against the real application.

All its checks run on every operation, in four phases: the document's examples, the boundaries of every schema,
made-up requests, and chains along the links. The run is the same every time; ``pytest tests/apps/api/test_contract.py
--api-examples 500`` is a long one that is different every time.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from httpx import AsyncClient
from sqlalchemy import text
from temporalio.client import Client

from activities.routing import RoutingActivities
from activities.store import (
    accounts,
    ledger,
    plans,
    prices,
    promises,
    proposing,
    rerouting,
    stock,
    subscribers,
)
from activities.store.ledger import NewEntry, NewTransaction
from activities.store.migrate import migrate
from activities.store.stock import Wanted
from activities.store.store import Store
from apps.api import examples, runs
from apps.api.application import create_app
from apps.api.contracts import PriceListRequest
from models.effects import RouteOrder
from models.ledger import TransactionKind
from models.money import Money
from models.outbox import Topic
from models.policy import PolicyProposal
from models.promise import PromiseRequest
from models.rerouting import NoticePost
from models.states import OrderState
from models.tables.reconciliation import ReconciliationRunRow
from policies.routing.exact import ExactRouter
from tests.activities.running import run
from tests.apps.api.builders import a_review, an_entry, write_down
from tests.apps.api.conftest import PAY_LINK_SECRET, TOKEN, WEBHOOK_SECRET, rehearsing
from tests.apps.api.serving import behind_a_socket
from tests.builders import NOON, stocked
from workers.client import connect
from workers.embedded.namespace import reconcile_search_attributes
from workers.embedded.postgres import EmbeddedPostgres
from workers.embedded.temporal import EmbeddedTemporal
from workers.settings import REPOSITORY, Settings

DOCUMENT = REPOSITORY / "docs" / "openapi.json"
OPERATIONS = sum(len(path) for path in json.loads(DOCUMENT.read_text())["paths"].values())
CONFIG = Path(__file__).with_name("contract") / "schemathesis.toml"
ORDER_ID = "web:1001"
QUICK = 5


@pytest.fixture
async def own_client(servers_dir: Path) -> AsyncIterator[Client]:
    """Of a Temporal of its own: the document's examples are orders that other tests have as well."""
    with EmbeddedTemporal(servers_dir / "contract", in_memory=True) as server:
        client = await connect(server.address)
        await reconcile_search_attributes(client)
        yield client


@pytest.fixture
async def base_url(
    postgres: EmbeddedPostgres, own_client: Client, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[str]:
    """The API with the order and the review task of its own examples."""
    for patience in ("CALL_WITHIN", "ANSWER_WITHIN"):
        monkeypatch.setattr(runs, patience, timedelta(seconds=60))
    url = postgres.url("contract")
    migrate(url)
    settings = Settings(
        api_token=TOKEN,
        webhook_secret=WEBHOOK_SECRET,
        pay_link_secret=PAY_LINK_SECRET,
        database_url=url,
        # One caller plays all of them here; the limits have tests of their own.
        api_rate=1e6,
        stranger_rate=1e6,
        webhook_rate=1e6,
    )
    app = create_app(settings, client=own_client)
    async with rehearsing(own_client), behind_a_socket(app, settings) as port:
        address = f"http://127.0.0.1:{port}"
        async with AsyncClient(base_url=address, headers={"Authorization": f"Bearer {TOKEN}"}) as caller:
            (await caller.post("/v1/orders", json=examples.ORDER, timeout=60)).raise_for_status()
        store = Store.at(url)
        sku = examples.RECEIPT["lines"][0]["sku"]
        added = examples.AMEND_ALL["lines"][1]["sku"]
        await stocked(store, north={sku: 1_000_000, "COUNTED": 10, added: 10}, south={sku: 1_000})
        shipment = examples.SHORT_PICK["shipment_id"]
        async with store.transaction() as session:
            await stock.reserve(
                session,
                key=f"order:{ORDER_ID}:reserve:1",
                order_id=ORDER_ID,
                plan_id=f"{ORDER_ID}:p1",
                wanted=[Wanted(shipment_id=shipment, node="north", sku=sku, quantity=100_000)],
                expires_at=datetime.now(UTC) + timedelta(days=1),
            )
        routing = RoutingActivities(store, ExactRouter())
        routed = RouteOrder(order_id=ORDER_ID, attempt=1, business_now=NOON)
        assert (await run(routing.route_order, routed)).plan is not None
        async with store.transaction() as session:
            limit = Money(minor=examples.CREDIT_LIMIT["limit_minor"], currency="GBP")
            instrument = await accounts.open_account(session, examples.CREDIT_LIMIT["account"], limit)
            # Goods were sent on account: what the example pays is owed.
            owed = (
                NewEntry(account="receivable.on_account", amount=limit, instrument=instrument),
                NewEntry(account="sales.goods", amount=-limit),
            )
            wrote = NewTransaction(
                id="owed",
                kind=TransactionKind.ADJUSTMENT,
                source="test",
                at=datetime.now(UTC),
                entries=owed,
            )
            await ledger.post(session, wrote)
            # The payment that the example takes back.
            await accounts.paid(
                session,
                examples.CREDIT_LIMIT["account"],
                Money(minor=120_000, currency="GBP"),
                key=examples.REVERSAL["transaction"],
            )
            listed = PriceListRequest.model_validate(examples.PRICE_LIST_REQUEST)
            await prices.load(session, listed, actor=listed.actor)
        await write_down(
            store,
            ORDER_ID,
            state=OrderState.IN_REVIEW,
            entries=(an_entry(ORDER_ID),),
            reviews=(a_review(ORDER_ID),),
        )
        async with store.transaction() as session:
            made = await plans.decision(session, ORDER_ID)
            assert made.problem is not None
            notice = NoticePost(request_id="n", actor="dana", reason="a flood", country="NZ")
            assert (await rerouting.post(session, notice)).notice_id == 1
            cart = PromiseRequest.model_validate(examples.CART | {"request_id": "cart"})
            await promises.keep(session, cart, made.plan, made.problem)
            await session.execute(
                text("UPDATE promises SET promise_id = :known"), {"known": examples.PROMISE["promise_id"]}
            )
            for number in (1, 2):
                fields = {"request_id": f"policy-{number}", "actor": "jo", "reason": "a sale", "document": {}}
                await proposing.propose(session, PolicyProposal.model_validate(fields))
        await a_dead_letter(store)
        async with store.transaction() as session:
            session.add(ReconciliationRunRow.model_validate(examples.RECONCILIATION_RUN))
        await store.close()
        yield address


async def a_dead_letter(store: Store) -> None:
    """The one of the document's examples: nobody can make one by a request."""
    (letter,) = examples.DEAD_LETTERS["dead_letters"]
    async with store.transaction() as session:
        await subscribers.add(
            session,
            subscriber_id=letter["subscriber_id"],
            name="WMS",
            url="http://127.0.0.1:9/",
            topics=[Topic.FINANCE],
            secret="s" * 40,
        )
        event = letter["event"] | {"data": json.dumps(letter["event"]["data"])}
        for statement in (
            "INSERT INTO outbox (position, event_id, topic, key, type, payload, created_at, transaction_id) "
            "OVERRIDING SYSTEM VALUE VALUES (:position, :event_id, :topic, :key, :type, :data, now(), 1)",
            "SELECT setval(pg_get_serial_sequence('outbox', 'position'), :position)",
            "UPDATE subscribers SET position = :position",
            "INSERT INTO outbox_held (subscriber_id, key, position, attempts, try_at, failed_at, failure, dead_at) "
            "VALUES ('wms', :key, :position, 20, now(), now(), 'HTTP 422', now())",
        ):
            await session.execute(text(statement), event)


@pytest.mark.timeout(0)
async def test_api_keeps_to_its_document(base_url: str, pytestconfig: pytest.Config, tmp_path: Path) -> None:
    longer: int | None = pytestconfig.getoption("--api-examples")
    config = tmp_path / "schemathesis.toml"
    boundaries = CONFIG.read_text()
    config.write_text(boundaries.replace('mode = "negative"', 'mode = "all"') if longer else boundaries)
    ran = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config)),
        *("run", str(DOCUMENT), "--url", base_url, "--no-color"),
        *("--max-examples", str(longer or QUICK), *([] if longer else ["--generation-deterministic"])),
        cwd=REPOSITORY,
        env=os.environ
        | {
            "ORDERWRIGHT_API_TOKEN": TOKEN,
            "ORDERWRIGHT_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "ORDERWRIGHT_PAY_LINK_SECRET": PAY_LINK_SECRET,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await ran.communicate()
    finally:
        if ran.returncode is None:
            ran.kill()
    assert ran.returncode == 0, said.decode()
    # A run that was kept from everything would find nothing.
    assert f"Tested: {OPERATIONS}\n" in said.decode()
    assert b"Authentication failed" not in said, said.decode()
    assert b"Missing test data" not in said, said.decode()
