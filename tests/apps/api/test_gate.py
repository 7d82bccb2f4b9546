import httpx
import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from apps.api.application import create_app
from models.errors import InvalidDocument
from tests.apps.api.builders import a_draft
from tests.apps.api.conftest import TOKEN, serving
from workers.settings import Settings

CLOSED = ["/v1/orders", "/v1/orders/web:1", "/v1/reviews", "/metrics", "/", "/nowhere"]


@pytest.mark.parametrize("path", CLOSED)
@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", TOKEN, "Bearer \xff"],
)
async def test_nothing_opens_without_the_token(api: httpx.AsyncClient, path: str, authorization: str) -> None:
    answer = await api.get(path, headers=[(b"Authorization", authorization.encode("latin-1"))])
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.json()["code"] == "unauthorised"


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_probes_need_no_token(api: httpx.AsyncClient, path: str) -> None:
    answer = await api.get(path, headers={"Authorization": ""})
    assert answer.status_code == 200


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_scheme_is_read_in_any_case(api: httpx.AsyncClient, scheme: str) -> None:
    answer = await api.get("/v1/reviews", headers={"Authorization": f"{scheme} {TOKEN}"})
    assert answer.status_code == 200


async def test_old_and_new_token_open_while_they_are_exchanged(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"api_token_previous": "the-old-one"}))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as caller:
        for token, status in ((TOKEN, 404), ("the-old-one", 404), ("", 401), ("neither", 401)):
            answer = await caller.get("/nowhere", headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == status


async def test_metrics_token_reads_the_metrics_and_opens_nothing_else(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"metrics_token": "for-metrics"}))
    async with serving(app, token="for-metrics") as caller:
        assert (await caller.get("/metrics")).status_code == 200
        assert (await caller.head("/metrics")).status_code == 200
        assert (await caller.post("/metrics")).status_code == 401
        closed = [(await caller.get(path)).status_code for path in CLOSED if path != "/metrics"]
        assert set(closed) == {401}
        both = await caller.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        assert both.status_code == 200


async def test_no_metrics_token_is_no_empty_one(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"metrics_token": " "}))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as caller:
        for offered in ("Bearer", "Bearer ", "Bearer  "):
            assert (await caller.get("/metrics", headers={"Authorization": offered})).status_code == 401


@pytest.mark.parametrize("missing", ["api_token", "webhook_secret"])
def test_application_refuses_to_exist_without_a_secret(settings: Settings, missing: str) -> None:
    with pytest.raises(InvalidDocument, match=f"ORDERWRIGHT_{missing.upper()}"):
        create_app(settings.model_copy(update={missing: " "}))


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nowhere", 404, "not_found"),
        ("GET", "/", 404, "not_found"),
        ("DELETE", "/v1/orders", 405, "method_not_allowed"),
        ("POST", "/v1/webhooks/postman", 422, "invalid_request"),
    ],
)
async def test_frameworks_own_errors_are_problems_too(
    api: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    answer = await api.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == code
    assert problem["status"] == status
    assert problem["type"] == f"urn:orderwright:error:{code}"
    assert problem["title"]
    assert problem["detail"]


async def test_fault_of_ours_is_answered_without_what_went_wrong(settings: Settings) -> None:
    app = create_app(settings)

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("Wilhelmina Testperson, 7 Hidden Lane")

    with capture_logs() as lines:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://api",
            headers={"Authorization": f"Bearer {TOKEN}"},
        ) as caller:
            answer = await caller.get("/broken")
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal"
    assert "Wilhelmina" not in answer.text
    assert [line["error"] for line in lines if line["event"] == "unexpected_error"] == ["RuntimeError"]
    assert "Wilhelmina" not in str(lines)


async def test_logs_name_the_order_and_no_person(api: httpx.AsyncClient) -> None:
    document = a_draft()
    with capture_logs(processors=[merge_contextvars]) as lines:
        await api.post("/v1/orders", json=document)
    requests = [line for line in lines if line["event"] == "request"]
    order_id = f"web:{document['external_id']}"
    about = {"order_id": order_id, "workflow_id": f"order:{order_id}", "actor": "api"}
    assert [line.items() >= about.items() for line in requests] == [True]
    assert [line["route"] for line in requests] == ["/v1/orders"]
    assert "Wilhelmina" not in str(lines)
    assert "Hidden Lane" not in str(lines)


async def test_logs_name_who_acts_and_nobody_who_was_not_let_in(api: httpx.AsyncClient) -> None:
    wish = {"actor": "dana@shop.example", "reason": "changed their mind"}
    with capture_logs(processors=[merge_contextvars]) as lines:
        await api.get("/v1/orders/web:unheard-of")
        await api.post("/v1/orders/web:unheard-of/cancel", json=wish)
        await api.get("/v1/orders/web:unheard-of", headers={"Authorization": "Bearer wrong"})
    requests = [line for line in lines if line["event"] == "request"]
    assert [line.get("actor") for line in requests] == ["api", "dana@shop.example", None]
