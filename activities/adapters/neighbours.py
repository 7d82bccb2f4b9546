"""All four neighbours, opened together and closed together."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import httpx

from activities.adapters.carrier import HttpCarrier
from activities.adapters.http import open_client
from activities.adapters.messages import HttpMessageGateway
from activities.adapters.payment import HttpPaymentProvider
from activities.adapters.warehouse import HttpWarehouse
from activities.ports import Carrier, MessageGateway, PaymentProvider, Warehouse


@dataclass(frozen=True)
class Neighbours:
    """Whom the activities talk to."""

    payments: PaymentProvider
    warehouse: Warehouse
    carrier: Carrier
    messages: MessageGateway


@asynccontextmanager
async def open_neighbours(
    payment_url: str,
    warehouse_url: str,
    carrier_url: str,
    message_url: str,
    *,
    payment_token: str = "",
    carrier_token: str = "",
) -> AsyncIterator[Neighbours]:
    """Adapters for the four base URLs, each with connections of its own: a slow one never starves the others.

    The tokens are ours at the neighbour, sent as ``Authorization: Bearer``; where there is none nothing is sent.
    """
    tls = httpx.create_ssl_context(trust_env=False)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(open_client(tls)) for _ in range(4)]
        yield Neighbours(
            payments=HttpPaymentProvider(payment_url, clients[0], payment_token),
            warehouse=HttpWarehouse(warehouse_url, clients[1]),
            carrier=HttpCarrier(carrier_url, clients[2], carrier_token),
            messages=HttpMessageGateway(message_url, clients[3]),
        )
