"""The HTTP API put together: routes, gate, problems, and what runs beside them while it serves."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import cache
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from temporalio.client import Client

from activities.store import promises
from activities.store.store import Store
from apps.api import (
    amendments,
    availability,
    docs,
    health,
    ledger,
    orders,
    policy,
    prices,
    promise,
    reconciliation,
    rerouting,
    reviews,
    routing,
    stock,
    stream,
    subscribers,
    tenders,
    values,
    webhooks,
)
from apps.api.gate import NEIGHBOURS, PROBES, Gate
from apps.api.metrics import Metrics
from apps.api.openapi import DESCRIPTION, TAGS, describe
from apps.api.parts import Parts
from apps.api.problems import install_problem_handlers
from apps.api.runs import Runs
from apps.api.sweeper import Sweeper
from models.errors import InvalidDocument, NotReachable, Problem
from workers.settings import Settings
from workers.telemetry import tracing

VERSION = "1"


def create_app(settings: Settings, *, client: Client | None = None) -> FastAPI:
    """The application for ``settings``; without a ``client`` it connects to Temporal by itself, as long as it takes.

    Raises ``InvalidDocument`` without an API token or a webhook secret: a server open to everybody must be nobody's
    accident.
    """
    _require_secrets(settings)
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with tracing("api", settings), working(app):
            yield

    @asynccontextmanager
    async def working(app: FastAPI) -> AsyncIterator[None]:
        store = Store.at(settings.database_url, found_full=metrics.database_full.inc)
        runs = Runs(client)
        parts = Parts(settings=settings, store=store, runs=runs, metrics=metrics)
        app.state.parts = parts
        beside = [
            asyncio.create_task(runs.keep_trying_to_connect(), name="connect to Temporal"),
            asyncio.create_task(Sweeper(parts).run(), name="sweeper"),
            asyncio.create_task(parts.outbox.run(), name="outbox"),
            asyncio.create_task(parts.streams.run(), name="streams"),
            asyncio.create_task(_warm_up_promises(store), name="warm up"),
        ]
        try:
            yield
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            await store.close()

    app = routes_only(lifespan)
    app.add_middleware(Gate, settings=settings, metrics=metrics)
    return app


async def _warm_up_promises(store: Store) -> None:
    """Load the optimiser where promises are asked for, before somebody at a checkout waits for it."""
    with suppress(NotReachable):
        async with store.transaction() as session:
            wanted = await promises.are_asked_for(session)
        if wanted:
            await asyncio.to_thread(promise.warm_up)


def routes_only(
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
) -> FastAPI:
    """The routes and their error answers, without what they work with: enough to be described."""
    app = FastAPI(
        title="Orderwright",
        version=VERSION,
        description=DESCRIPTION,
        openapi_tags=TAGS,
        # Our own routes below: the bundled pages would load scripts from elsewhere.
        openapi_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        separate_input_output_schemas=False,
        # FastAPI's own spans, on our terms: workers.telemetry says where they go, and the metrics are our own.
        telemetry={"auto_configure": False, "metrics": False, "logs": False, "exclude": _is_probe},
    )
    install_problem_handlers(app)
    for router in (
        orders.router,
        amendments.router,
        tenders.router,
        reviews.router,
        routing.router,
        rerouting.router,
        policy.router,
        promise.router,
        ledger.router,
        prices.router,
        stock.router,
        availability.router,
        reconciliation.router,
        values.router,
        webhooks.router,
        subscribers.router,
        stream.router,
        health.router,
    ):
        app.include_router(router)

    @cache
    def document() -> dict[str, Any]:
        return describe(app)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi_document(request: Request) -> Response:
        """What this API offers, as OpenAPI 3.1."""
        return _unless_known(request, JSONResponse(document()))

    @app.get("/docs", include_in_schema=False)
    async def documentation(request: Request) -> Response:
        """What this API offers, as a page to read."""
        page = HTMLResponse(docs.render(document(), str(request.base_url)), headers=docs.headers())
        return _unless_known(request, page)

    return app


def _is_probe(scope: Mapping[str, Any]) -> bool:
    return scope.get("path") in PROBES


def _unless_known(request: Request, response: Response) -> Response:
    """``response`` with its entity tag, or 304 for a caller that has it already."""
    tag = f'"{hashlib.sha256(response.body).hexdigest()[:32]}"'
    response.headers["ETag"] = tag
    response.headers["Cache-Control"] = "no-cache"
    known = {one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")}
    if known & {tag, "*"}:
        kept = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        return Response(status_code=304, headers=kept)
    return response


def _require_secrets(settings: Settings) -> None:
    every_neighbour_signs = all(settings.webhook_secrets(neighbour) for neighbour in NEIGHBOURS)
    missing = tuple(
        Problem(path=variable, code="missing_setting", message=f"is not set: {why}")
        for variable, given, why in (
            (
                "ORDERWRIGHT_API_TOKEN",
                bool(settings.api_token.strip()),
                "the API does not serve without a token; give it a long random one",
            ),
            (
                "ORDERWRIGHT_WEBHOOK_SECRET",
                every_neighbour_signs,
                "webhooks could not be verified; give it the secret that the neighbours sign with",
            ),
        )
        if not given
    )
    if missing:
        raise InvalidDocument(missing)
