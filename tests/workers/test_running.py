"""What a worker process gives its activities to work with."""

import pytest

from activities.notify import NotifyActivities, ReviewDesk
from workers.running import open_activities
from workers.settings import Settings
from workflows import steps


async def test_reminders_and_escalations_go_where_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERWRIGHT_REVIEWERS", "#reviews")
    monkeypatch.setenv("ORDERWRIGHT_ESCALATION", "dana@shop.test")
    async with open_activities([steps.NOTIFY_QUEUE], Settings()) as (activities, _):
        (notify,) = activities[steps.NOTIFY_QUEUE]
        told = getattr(notify, "__self__", None)
        assert isinstance(told, NotifyActivities)
        assert told._desk == ReviewDesk(reviewers="#reviews", escalation="dana@shop.test")
