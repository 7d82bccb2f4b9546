"""The page at /docs is complete in itself: every link leads somewhere, and nothing comes from elsewhere."""

import base64
import hashlib
import re
import shlex
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from apps.api.application import routes_only
from apps.api.docs import headers, render
from apps.api.openapi import describe
from apps.api.problems import answered_codes

DOCUMENT = describe(routes_only())
PAGE = render(DOCUMENT, "http://shop.example/")
OPERATIONS = [
    (method.upper(), path, operation)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
]
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Reader(HTMLParser):
    """Notes ids and links, and that every element is closed where it should be."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given: dict[str, Any] = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if tag == "a" else []
        self.loaded += [
            value for name, value in given.items() if name in ("src", "srcset", "action", "style")
        ]
        self.loaded += [tag] if tag in ("script", "link", "iframe", "object", "form") else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def read() -> Reader:
    reader = Reader()
    reader.feed(PAGE)
    reader.close()
    return reader


async def test_page_and_every_link_on_it_open_without_a_token(api: httpx.AsyncClient, read: Reader) -> None:
    page = await api.get("/docs", headers={"Authorization": ""})
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    elsewhere = {link for link in read.links if not link.startswith("#")}
    assert elsewhere == {"/openapi.json", "/healthz", "/readyz"}
    for link in elsewhere:
        assert (await api.get(link, headers={"Authorization": ""})).status_code == 200


def test_every_link_within_the_page_leads_somewhere(read: Reader) -> None:
    assert read.open == []
    assert len(read.ids) == len(set(read.ids))
    assert {link[1:] for link in read.links if link.startswith("#")} <= set(read.ids)


def test_nothing_is_loaded_and_the_policy_allows_only_the_style(read: Reader) -> None:
    assert read.loaded == []
    (style,) = re.findall(r"<style>(.*?)</style>", PAGE, re.DOTALL)
    assert "url(" not in style and "@import" not in style
    policy = headers()["Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS)
def test_every_operation_is_there_with_parameters_answers_and_a_line_to_copy(
    method: str, path: str, operation: dict[str, Any]
) -> None:
    (article,) = re.findall(rf'<article id="{operation["operationId"]}">.*?</article>', PAGE, re.DOTALL)
    assert f"{method}</b> <code>{path}</code>" in article
    for parameter in operation.get("parameters", []):
        assert f"<code>{parameter['name']}</code>" in article
    for status in operation["responses"]:
        assert f"<b>{'other' if status == 'default' else status}</b>" in article
    assert ("$ORDERWRIGHT_API_TOKEN" in article) == (operation.get("security") != [])
    (line,) = re.findall(r'class="copy"><code>(.*?)</code>', article, re.DOTALL)
    words = shlex.split(unescaped(line))
    assert words[0] == "curl"
    url = urlsplit(next(word for word in words if word.startswith("http")))
    assert (url.netloc, "{" in url.path) == ("shop.example", False)


def test_every_schema_and_problem_code_is_there(read: Reader) -> None:
    assert {f"schema-{name}" for name in DOCUMENT["components"]["schemas"]} <= set(read.ids)
    for code, *_ in answered_codes():
        assert f"<td><code>{code}</code></td>" in PAGE


async def test_line_to_copy_names_the_server_that_was_asked(api: httpx.AsyncClient) -> None:
    assert "http://api/v1/orders" in (await api.get("/docs")).text
    odd = await api.get("/docs", headers={"Host": "<script>alert(1)</script>"})
    assert "<script" not in odd.text


def unescaped(text: str) -> str:
    from html import unescape

    return unescape(text)
