"""A small world in which nothing is wrong: one order that was delivered, in a real database and at real neighbours."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import text

from activities.store.store import Store
from apps.simulators.faults import HARSH
from apps.simulators.ledger import DELIVERED, Effect, Ledger, OwedWebhook
from apps.simulators.statement import ledger_path
from benchmarks.chaos.checks import Invariant, Result, judge
from benchmarks.chaos.evidence import Evidence, Issued, Told, collect
from benchmarks.chaos.subscriber import Heard, Subscriber
from models.outbox import OutboxEvent, Topic

ORDER, SHIPMENT = "web:1001", "web:1001:1"
NODE, SKU, STOCKED = "leeds", "MUG", 10
UNITS, TOTAL = 3, 1_800
CARD_CODE, CARD_VALUE = "gift_card:7", 500
NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
AUTHORISE, RESERVE = f"order:{ORDER}:authorise:1", f"order:{ORDER}:reserve:1"
CAPTURE, PICK, LABEL = (f"shipment:{SHIPMENT}:{step}:1" for step in ("capture", "pick", "label"))
CONFIRMED_MESSAGE = f"order:{ORDER}:notify-order_confirmed:1"


_TABLES = (
    "intake, orders, shipments, nodes, stock, reservations, reserved_units, payment_operations, shipping_operations,"
    " notifications, outbox, outbox_staged, stock_movements, ledger_transactions, ledger_entries, order_lines,"
    " order_amendments, stock_documents, stock_released, stored_value"
)


@dataclass
class World:
    """The database and the neighbours' files; tests plant in them what must be found."""

    store: Store
    simulators: Path
    acknowledged: frozenset[str] = frozenset({ORDER})
    heard: Heard = field(default_factory=lambda: Heard({}))
    told: Told = field(default_factory=Told)

    async def evidence(self) -> Evidence:
        return await collect(
            self.store,
            self.simulators,
            HARSH,
            stocked={(NODE, SKU): STOCKED},
            acknowledged=self.acknowledged,
            heard=self.heard,
            told=self.told,
        )

    async def judged(self) -> dict[Invariant, Result]:
        return {result.invariant: result for result in judge(await self.evidence())}

    async def broken(self) -> dict[Invariant, list[str]]:
        """What does not hold, with every sentence about it.

        But for what others were told: what is planted by force tells them nothing, so that they know better.
        """
        broken = await self.broken_of_all()
        broken.pop(Invariant.EVENTS_TELL_THE_TRUTH, None)
        return broken

    async def broken_of_all(self) -> dict[Invariant, list[str]]:
        """The same of every invariant."""
        return {
            invariant: [f"{v.order_id}: {v.what}" for v in result.violations]
            for invariant, result in (await self.judged()).items()
            if not result.holds
        }

    async def sql(self, statement: str, **values: Any) -> None:
        async with self.store.transaction() as session:
            # What the database itself refuses has to be tried without its help.
            await session.execute(text("SET LOCAL session_replication_role = replica"))
            await session.execute(text(statement), values)

    async def without_constraint(self, table: str, constraint: str) -> None:
        async with self.store.transaction() as session:
            await session.execute(text(f"ALTER TABLE {table} DROP CONSTRAINT {constraint}"))

    @contextmanager
    def neighbour(self, simulator: str) -> Iterator[Ledger]:
        ledger = Ledger(ledger_path(self.simulators, simulator))
        try:
            yield ledger
        finally:
            ledger.close()

    def did(self, simulator: str, effect: Effect) -> None:
        with self.neighbour(simulator) as ledger:
            ledger.record(effect)

    def now_is(self, simulator: str, effect_id: str, state: str) -> None:
        with self.neighbour(simulator) as ledger:
            ledger.set_state(effect_id, state)

    def owes(
        self, simulator: str, event_id: str, *, state: str, due_at: float = 0.0, error: str | None = None
    ) -> None:
        with self.neighbour(simulator) as ledger:
            ledger.owe(
                OwedWebhook(event_id, subject=event_id, number=1, due_at=due_at, body="{}", state=state)
            )
            if error is not None:
                ledger._db.execute("update webhooks set last_error = ? where event_id = ?", (error, event_id))


def an_effect(kind: str, key: str, state: str, **more: Any) -> Effect:
    name = f"{kind}-{key.rpartition(':')[2]}-{len(key)}"
    return Effect(
        **{
            "effect_id": name,
            "kind": kind,
            "key": key,
            "reference": ORDER,
            "state": state,
            "at": NOW.isoformat(),
            **more,
        }
    )


AUTHORISED = an_effect(
    "authorisation", AUTHORISE, "used", effect_id="auth-1", amount_minor=TOTAL, currency="GBP"
)
CAPTURED = an_effect(
    "capture", CAPTURE, "captured", effect_id="cap-1", parent_id="auth-1", amount_minor=TOTAL, currency="GBP"
)
PICKED = an_effect("pick", PICK, "accepted", effect_id="pick-1", reference=SHIPMENT)
LABELLED = an_effect(
    "label", LABEL, "bought", effect_id="lab-1", reference=SHIPMENT, amount_minor=395, currency="GBP"
)
TOLD = an_effect("message", CONFIRMED_MESSAGE, "sent", effect_id="msg-1", reference="order_confirmed")


async def a_sound_world(store: Store, simulators: Path) -> World:
    world = World(store, simulators)
    await world.sql(f"TRUNCATE {_TABLES} CASCADE")
    await world.sql(
        "INSERT INTO nodes (node_id, name, country, time_zone, handling_minor, active)"
        " VALUES (:node, 'Leeds', 'GB', 'Europe/London', 0, true)",
        node=NODE,
    )
    await world.sql(
        "INSERT INTO stock (node, sku, on_hand, reserved) VALUES (:node, :sku, :on_hand, 0)",
        node=NODE,
        sku=SKU,
        on_hand=STOCKED - UNITS,
    )
    await moved(world, "seed", STOCKED, 0, to=(STOCKED, 0))
    await moved(world, "reserve", 0, UNITS, to=(STOCKED, UNITS), source=RESERVE)
    await moved(world, "ship", -UNITS, -UNITS, to=(STOCKED - UNITS, 0), source=SHIPMENT)
    # Somebody counted, and found what the books say.
    await a_document(world, "count-1", "count", STOCKED - UNITS)
    await an_order(world, ORDER)
    await an_amendment(world, number=2, base_version=1)
    await a_shipment(world, SHIPMENT)
    await units(world, RESERVE, SHIPMENT, "consumed")
    await money(world, AUTHORISE, "authorise", TOTAL, "auth-1")
    await money(world, CAPTURE, "capture", TOTAL, "cap-1", parent="auth-1")
    await posted(world, AUTHORISE, "authorise", {"held.authorised": TOTAL, "held.contra": -TOTAL})
    await posted(
        world,
        CAPTURE,
        "capture",
        {"held.contra": TOTAL, "held.authorised": -TOTAL, "provider.clearing": TOTAL, "sales.goods": -TOTAL},
    )
    for key, kind in ((PICK, "pick"), (LABEL, "label")):
        await asked(world, key, kind)
    await message(world, CONFIRMED_MESSAGE, "order_confirmed", "sent", "msg-1")
    for simulator, effects in (
        ("payment", (AUTHORISED, CAPTURED)),
        ("warehouse", (PICKED,)),
        ("carrier", (LABELLED,)),
        ("messages", (TOLD,)),
    ):
        for effect in effects:
            world.did(simulator, effect)
    world.owes("carrier", "lab-1:delivered", state=DELIVERED)
    await happened(world, an_event(1, "order.changed", state="routing"))
    await happened(world, an_event(2, "ledger.capture", Topic.FINANCE, amount_minor=TOTAL))
    await happened(world, an_event(3, "order.changed", state="closed"))
    await happened(
        world,
        an_event(
            4,
            "availability.changed",
            Topic.AVAILABILITY,
            key=f"{NODE}/{SKU}",
            node=NODE,
            sku=SKU,
            available=STOCKED - UNITS,
        ),
    )
    await issued(world, "issue:card-1", CARD_VALUE)
    world.told.issued.append(Issued("card-1", CARD_CODE, CARD_VALUE))
    return world


def an_event(
    position: int, kind: str, topic: Topic = Topic.ORDERS, key: str = ORDER, **data: Any
) -> OutboxEvent:
    about = {"order_id": ORDER} if key == ORDER else {}
    return OutboxEvent(
        position=position,
        event_id=f"event-{position}",
        topic=topic,
        key=key,
        type=kind,
        at=NOW,
        data=data | about,
    )


async def happened(world: World, event: OutboxEvent, *, told: bool = True) -> None:
    await world.sql(
        "INSERT INTO outbox (position, event_id, topic, key, type, payload, created_at, transaction_id)"
        " OVERRIDING SYSTEM VALUE VALUES (:position, :id, :topic, :key, :type, :data, :now, 1)",
        position=event.position,
        id=event.event_id,
        topic=event.topic,
        key=event.key,
        type=event.type,
        data=json.dumps(event.data),
        now=NOW,
    )
    if told:
        hear(world, event)


def hear(world: World, *events: OutboxEvent) -> None:
    subscriber = Subscriber(seed=0)
    for event in (*world.heard.applied.values(), *events):
        subscriber.apply(event.key, event)
    world.heard = subscriber.heard()


async def an_order(world: World, order_id: str, state: str = "closed", total: int = TOTAL) -> None:
    channel, _, external = order_id.partition(":")
    await world.sql(
        "INSERT INTO intake (order_id, channel, external_id, document_hash, document, source, state, speed,"
        " received_at, started_at, tries)"
        " VALUES (:id, :channel, :external, 'h', :document, 'test', 'started', 1, :now, :now, 0)",
        id=order_id,
        channel=channel,
        external=external,
        document=json.dumps({}),
        now=NOW,
    )
    await world.sql(
        "INSERT INTO orders (order_id, workflow_id, channel, external_id, state, needs_review, currency, total_minor,"
        " goods_minor, line_count, unit_count, ship_country, placed_at, version, created_at, updated_at) VALUES (:id,"
        " :run, :channel, :external, :state, false, 'GBP', :total, :total, 1, :units, 'GB', :now, 1, :now, :now)",
        run=f"order:{order_id}",
        id=order_id,
        channel=channel,
        external=external,
        state=state,
        total=total,
        units=UNITS,
        now=NOW,
    )
    await world.sql(
        "INSERT INTO order_lines (order_id, line_id, position, sku, description, quantity, unit_price_minor)"
        " VALUES (:id, '1', 1, :sku, '', :units, 600)",
        id=order_id,
        sku=SKU,
        units=UNITS,
    )


async def an_amendment(
    world: World,
    *,
    number: int,
    base_version: int,
    state: str = "applied",
    total: int = TOTAL,
    quantity: int = UNITS,
) -> None:
    """A version of the order's document; by the applied one, its lines and its total are those of the order."""
    lines = [{"line_id": "1", "sku": SKU, "quantity": quantity, "unit_price_minor": 600}]
    await world.sql(
        "INSERT INTO order_amendments (amendment_id, order_id, number, base_version, stated_by, state, request_id,"
        " request_hash, request, document, document_hash, preview, refusal, created_at, decided_at) VALUES (:id,"
        " :order, :number, :base, 1, :state, :request, 'h', '{}', :document, 'h', '{}', :refusal, :now, :decided)",
        id=f"{ORDER}:a{number}",
        order=ORDER,
        number=number,
        base=base_version,
        state=state,
        request=f"amend-{number}",
        document=json.dumps({"totals": {"total_minor": total}, "lines": lines}),
        refusal=json.dumps({"path": "", "code": "too_late", "message": "no"}) if state == "refused" else None,
        now=NOW,
        decided=None if state == "proposed" else NOW,
    )
    if state == "applied":
        world.told.amended[f"amend-{number}"] = ORDER


async def a_document(world: World, document_id: str, kind: str, quantity: int) -> None:
    """What a warehouse told of the one row, and heard as an answer."""
    answer = {"document_id": document_id, "repeated": False, "stock": [], "released": []}
    await world.sql(
        "INSERT INTO stock_documents (document_id, kind, fingerprint, actor, document, answer, at)"
        " VALUES (:id, :kind, 'h', 'test', :document, :answer, :now)",
        id=document_id,
        kind=kind,
        document=json.dumps({"node": NODE, "lines": [{"sku": SKU, "quantity": quantity}]}),
        answer=json.dumps(answer),
        now=NOW,
    )
    world.told.documents[document_id] = answer


async def lost(world: World, quantity: int, *, heard: bool = True) -> None:
    """Units that the count took from the order's promise."""
    await world.sql(
        "INSERT INTO stock_released (document_id, reservation, order_id, shipment_id, node, sku, quantity, at,"
        " handled_at) VALUES ('count-1', :key, :order, :shipment, :node, :sku, :quantity, :now, :handled)",
        key=RESERVE,
        order=ORDER,
        shipment=SHIPMENT,
        node=NODE,
        sku=SKU,
        quantity=quantity,
        now=NOW,
        handled=NOW if heard else None,
    )


async def issued(world: World, key: str, amount: int) -> None:
    """Value that was put on the gift card."""
    await world.sql(
        "INSERT INTO stored_value (instrument, kind, currency, active, created_at)"
        " VALUES (:instrument, 'gift_card', 'GBP', true, :now) ON CONFLICT DO NOTHING",
        instrument=CARD_CODE,
        now=NOW,
    )
    await posted(
        world, key, "issue", {"bank": amount, "liability.gift_cards": -amount}, order_id=None, of_card=True
    )


async def a_shipment(
    world: World, shipment_id: str, state: str = "delivered", amount: int = TOTAL, quantity: int = UNITS
) -> None:
    order_id, _, number = shipment_id.rpartition(":")
    await world.sql(
        "INSERT INTO shipments (shipment_id, order_id, number, state, node, carrier, service, units, amount_minor,"
        " currency, promised_at, handed_over_at, late, version, created_at, updated_at) VALUES (:id, :order, :number,"
        " :state, :node, 'post', 'parcel', :quantity, :amount, 'GBP', :now, :now, false, 1, :now, :now)",
        id=shipment_id,
        order=order_id,
        number=int(number),
        state=state,
        node=NODE,
        quantity=quantity,
        amount=amount,
        now=NOW,
    )


async def units(
    world: World, key: str, shipment_id: str, state: str, *, quantity: int = UNITS, order_id: str = ORDER
) -> None:
    await world.sql(
        "INSERT INTO reservations (key, order_id, state, created_at) VALUES (:key, :order, 'held', :now)"
        " ON CONFLICT DO NOTHING",
        key=key,
        order=order_id,
        now=NOW,
    )
    await world.sql(
        "INSERT INTO reserved_units (key, shipment_id, node, sku, quantity, state)"
        " VALUES (:key, :shipment, :node, :sku, :quantity, :state)",
        key=key,
        shipment=shipment_id,
        node=NODE,
        sku=SKU,
        quantity=quantity,
        state=state,
    )


async def money(
    world: World,
    key: str,
    kind: str,
    amount: int,
    reference: str,
    *,
    state: str = "confirmed",
    parent: str | None = None,
) -> None:
    await world.sql(
        "INSERT INTO payment_operations (key, order_id, shipment_id, kind, state, parent, provider_ref, intended_at,"
        " amount_minor, currency, cause) VALUES (:key, :order, :shipment, :kind, :state, :parent, :reference, :now,"
        " :amount, 'GBP', :cause)",
        key=key,
        order=ORDER,
        shipment=key.removeprefix("shipment:").rsplit(":", 2)[0] if key.startswith("shipment:") else None,
        kind=kind,
        state=state,
        cause="lost_parcel" if kind == "refund" else None,
        parent=parent,
        reference=reference,
        now=NOW,
        amount=amount,
    )


async def posted(
    world: World,
    key: str,
    kind: str,
    entries: dict[str, int],
    *,
    order_id: str | None = ORDER,
    of_card: bool = False,
) -> None:
    """A transaction of the ledger; ``of_card``: of the gift card's, not of the provider's business."""
    await world.sql(
        "INSERT INTO ledger_transactions (id, order_id, kind, cause, source, at, recorded_at, written_in)"
        " VALUES (:key, :order, :kind, :cause, 'test', :now, :now, 1)",
        key=key,
        order=order_id,
        kind=kind,
        cause="lost_parcel" if kind == "refund" else None,
        now=NOW,
    )
    for number, (account, amount) in enumerate(entries.items(), start=1):
        await world.sql(
            "INSERT INTO ledger_entries (transaction_id, number, account, amount_minor, currency, tender, instrument)"
            " VALUES (:key, :number, :account, :amount, 'GBP', :tender, :instrument)",
            key=key,
            number=number,
            account=account,
            amount=amount,
            tender=AUTHORISE if account in ("held.authorised", "provider.clearing") else None,
            instrument=CARD_CODE
            if of_card and account in ("held.authorised", "liability.gift_cards")
            else None,
        )


async def moved(
    world: World,
    kind: str,
    on_hand: int,
    reserved: int,
    *,
    to: tuple[int, int],
    source: str = "",
    document_id: str | None = None,
) -> None:
    """A movement of stock, and what it came to."""
    await world.sql(
        "INSERT INTO stock_movements (node, sku, kind, on_hand, reserved, on_hand_after, reserved_after, actor, source,"
        " document_id) VALUES (:node, :sku, :kind, :on_hand, :reserved, :on_hand_after, :reserved_after, 'test',"
        " :source, :document)",
        node=NODE,
        sku=SKU,
        kind=kind,
        on_hand=on_hand,
        reserved=reserved,
        on_hand_after=to[0],
        reserved_after=to[1],
        source=source,
        document=document_id,
    )


async def asked(world: World, key: str, kind: str, shipment_id: str = SHIPMENT) -> None:
    await world.sql(
        "INSERT INTO shipping_operations (key, order_id, shipment_id, kind, state, intended_at)"
        " VALUES (:key, :order, :shipment, :kind, 'confirmed', :now)",
        key=key,
        order=shipment_id.rpartition(":")[0],
        shipment=shipment_id,
        kind=kind,
        now=NOW,
    )


async def message(world: World, key: str, template: str, state: str, message_id: str | None) -> None:
    await world.sql(
        "INSERT INTO notifications (key, order_id, audience, template, state, message_id, created_at)"
        " VALUES (:key, :order, 'customer', :template, :state, :id, :now)",
        key=key,
        order=ORDER,
        template=template,
        state=state,
        id=message_id,
        now=NOW,
    )
