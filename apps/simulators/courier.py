"""Delivers the webhooks that a simulator owes: signed, in the order of each subject, and again until they are taken.

It also sends what a simulated customer sends: unsigned, to an address of its own.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial

import httpx

from apps.simulators.faults import WEBHOOKS, FaultKind, Faults
from apps.simulators.ledger import DELIVERED, LOST, REFUSED, WAITING, Ledger, OwedWebhook
from models.webhooks import SIGNATURE_HEADER, TIMESTAMP_HEADER, WebhookEnvelope, sign

AT_ONCE = 8
# At most 20 looks a second, however fast the business clock runs.
SHORTEST_WAIT = 0.05
LONGEST_WAIT = 60.0
FIRST_BACKOFF = 0.25
LONGEST_BACKOFF = 5.0
# "Not found" may mean "not yet": the workflow that the event is for may be about to start.
KEEP_TRYING_UNKNOWN_SUBJECT = 300.0
TRY_AGAIN_STATUS = frozenset({408, 425, 429})


class Courier:
    """Plans webhooks and delivers them to one URL. ``speed`` is how many business seconds pass per wall second."""

    def __init__(self, ledger: Ledger, faults: Faults, *, url: str, secret: str, speed: float) -> None:
        self._ledger = ledger
        self._faults = faults
        self._url = url
        self._secret = secret
        self._speed = speed
        self._look_again = asyncio.Event()
        self._on_the_way: dict[str, asyncio.Task[None]] = {}

    def plan(self, envelope: WebhookEnvelope, *, key: str, subject: str, after: timedelta) -> None:
        """Send ``envelope`` when the business time ``after`` has passed. Part of the caller's transaction.

        ``key`` is that of the request which it follows from: event ids are new every time, keys are not.
        """
        fault = self._faults.strikes(
            WEBHOOKS, f"{envelope.kind} {envelope.event.kind}", f"{key}:{envelope.event.kind}"
        )
        struck = fault.do if fault else None
        # One that comes late must not hold up those after it, so it is the only one of its kind.
        subject = f"{subject}#late" if struck is FaultKind.WEBHOOK_LATE else subject
        due_at = time.time() + after.total_seconds() / self._speed
        for copy in range(2 if struck is FaultKind.WEBHOOK_TWICE else 1):
            self._ledger.owe(
                OwedWebhook(
                    event_id=envelope.event_id + (f"#{copy + 1}" if copy else ""),
                    subject=subject,
                    number=self._ledger.next_number(subject),
                    due_at=due_at,
                    next_try_at=due_at + (fault.wait if fault else 0.0),
                    state=LOST if struck is FaultKind.WEBHOOK_LOST else WAITING,
                    body=envelope.model_dump_json(exclude_none=True),
                )
            )

    def plan_post(self, event_id: str, *, url: str, body: str, after: timedelta) -> None:
        """Post ``body`` (JSON) to ``url`` when the business time ``after`` has passed, as anybody could."""
        self._ledger.owe(
            OwedWebhook(
                event_id=event_id,
                subject=event_id,
                number=1,
                due_at=time.time() + after.total_seconds() / self._speed,
                body=body,
                url=url,
            )
        )

    def happened(self, subject: str) -> list[WebhookEnvelope]:
        """What has happened to ``subject`` by now, in its order, whether or not anybody could be told."""
        bodies = self._ledger.happened(subject, time.time())
        return [WebhookEnvelope.model_validate_json(body) for body in bodies]

    def forget(self, subject: str) -> None:
        """What is planned about ``subject`` will not happen."""
        self._ledger.forget_webhooks(subject, time.time())

    def look_again(self) -> None:
        """Something was planned: the next webhook may be due sooner than thought."""
        self._look_again.set()

    @contextlib.asynccontextmanager
    async def delivering(self) -> AsyncIterator[None]:
        """Deliver in the background for as long as the context is open."""
        # The receiver is named by URL on purpose; a proxy for the outside world has no business in between.
        async with httpx.AsyncClient(timeout=10.0, trust_env=False, limits=_limits()) as client:
            loop = asyncio.create_task(self._deliver_for_ever(client))
            loop.add_done_callback(_end_the_process_on_failure)
            try:
                yield
            finally:
                # Whatever is cut short here is still owed and goes out after the next start.
                unfinished = [loop, *self._on_the_way.values()]
                for task in unfinished:
                    task.cancel()
                await asyncio.gather(*unfinished, return_exceptions=True)

    async def _deliver_for_ever(self, client: httpx.AsyncClient) -> None:
        while True:
            self._look_again.clear()
            wait = self._send_what_is_due(client)
            await asyncio.sleep(SHORTEST_WAIT)
            if wait > SHORTEST_WAIT:
                # Not wait_for: on Python 3.11 it swallows a cancellation that comes together with the event, and the
                # process would not end.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait - SHORTEST_WAIT):
                        await self._look_again.wait()

    def _send_what_is_due(self, client: httpx.AsyncClient) -> float:
        """Start what is due, as far as there is room; answers the seconds until the next look."""
        now = time.time()
        # Those on the way still stand in the list, so ask for that many more.
        for webhook in self._ledger.next_webhooks(AT_ONCE + len(self._on_the_way)):
            if webhook.event_id in self._on_the_way:
                continue
            if webhook.next_try_at > now:
                return min(webhook.next_try_at - now, LONGEST_WAIT)
            if len(self._on_the_way) >= AT_ONCE:
                break
            task = asyncio.create_task(self._try_once(client, webhook))
            self._on_the_way[webhook.event_id] = task
            task.add_done_callback(_end_the_process_on_failure)
            task.add_done_callback(partial(self._arrived, webhook.event_id))
        # Nothing else is planned, or there is no room: a delivery that ends wakes the loop.
        return LONGEST_WAIT

    def _arrived(self, event_id: str, _: asyncio.Task[None]) -> None:
        del self._on_the_way[event_id]
        self.look_again()

    async def _try_once(self, client: httpx.AsyncClient, webhook: OwedWebhook) -> None:
        body = webhook.body.encode()
        timestamp = int(time.time())
        headers = {"Content-Type": "application/json"}
        if webhook.url is None:
            headers |= {
                TIMESTAMP_HEADER: str(timestamp),
                SIGNATURE_HEADER: sign(self._secret, timestamp, body),
            }
        try:
            response = await client.post(webhook.url or self._url, content=body, headers=headers)
        except httpx.HTTPError as failure:
            # Of a customer's own address nothing is written down: it is the key to somebody's order.
            self._postpone(webhook, type(failure).__name__ + (f": {failure}" if webhook.url is None else ""))
            return
        status = response.status_code
        if response.is_success:
            self._ledger.settle_webhook(webhook.event_id, state=DELIVERED, error=None)
        elif (
            status >= 500 or status in TRY_AGAIN_STATUS or (status == 404 and self._may_still_appear(webhook))
        ):
            self._postpone(webhook, f"HTTP {status}")
        else:
            self._ledger.settle_webhook(webhook.event_id, state=REFUSED, error=f"HTTP {status}")
            who = self._url if webhook.url is None else "a pay link"
            print(
                f"{who} refused webhook {webhook.event_id} with {status}: not sent again",
                file=sys.stderr,
                flush=True,
            )

    def _postpone(self, webhook: OwedWebhook, error: str) -> None:
        now = time.time()
        # Doubling by exponent would overflow after a night of trying.
        backoff = min(FIRST_BACKOFF * 2 ** min(webhook.attempts, 10), LONGEST_BACKOFF)
        self._ledger.postpone_webhook(
            webhook.event_id,
            first_tried_at=webhook.first_tried_at or now,
            next_try_at=now + backoff,
            error=error,
        )

    @staticmethod
    def _may_still_appear(webhook: OwedWebhook) -> bool:
        if webhook.url is not None:
            return False
        first = webhook.first_tried_at
        return first is None or time.time() - first < KEEP_TRYING_UNKNOWN_SUBJECT


def _end_the_process_on_failure(task: asyncio.Task[None]) -> None:
    # Without its deliveries a simulator would look healthy and starve everybody; started again it goes on.
    if not task.cancelled() and (failure := task.exception()) is not None:
        sys.excepthook(type(failure), failure, failure.__traceback__)
        os.kill(os.getpid(), signal.SIGTERM)


def _limits() -> httpx.Limits:
    return httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
