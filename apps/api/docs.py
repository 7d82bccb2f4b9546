"""The API's documentation as one page: made of our OpenAPI document, complete in itself, without a script."""

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Iterator
from html import escape
from typing import Any

from apps.api import examples
from apps.api.problems import MEDIA_TYPE, answered_codes

# What stands in a path for each of its parts.
_SAMPLES = {
    "sku": "85123A",
    "list_id": "trade-2026",
    "account": examples.CREDIT_LIMIT["account"],
    "run_id": "reconciliation:money:month-end-1",
    "order_id": "web:1001",
    "task_id": "web:1001:r1",
    "neighbour": "carrier",
    "token": examples.PAY_TOKEN,
    "subscriber_id": "erp",
    "position": "4711",
    "version": "1",
    "promise_id": examples.PROMISE["promise_id"],
    "notice_id": "1",
}


def render(document: dict[str, Any], base_url: str) -> str:
    """The page for an OpenAPI ``document``; ``base_url`` is where the reader finds this server."""
    info = document["info"]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(info["title"])} API</title>
<style>{_STYLE}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<nav aria-label="Contents">{"".join(_contents(document))}</nav>
<main id="content">
<h1>{escape(info["title"])} API <small>version {escape(info["version"])}</small></h1>
{_prose(info["description"])}
<p>For programs: <a href="/openapi.json">the same as OpenAPI 3.1</a>. Is it up?
<a href="/healthz">/healthz</a> and <a href="/readyz">/readyz</a>.</p>
{"".join(_groups(document, base_url.rstrip("/")))}
{_problem_codes()}
<section id="schemas" aria-labelledby="schemas-title">
<h2 id="schemas-title">Schemas</h2>
{"".join(_schema(name, schema) for name, schema in document["components"]["schemas"].items())}
</section>
</main>
</body>
</html>
"""


def headers() -> dict[str, str]:
    """The page's headers: nothing but its own style may be loaded, and nobody may frame it."""
    style = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    return {
        "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }


def _operations(document: dict[str, Any], tag: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if tag in operation["tags"]:
                yield method.upper(), path, operation


def _contents(document: dict[str, Any]) -> Iterator[str]:
    for tag in document["tags"]:
        yield f'<h2><a href="#{tag["name"]}">{tag["name"].capitalize()}</a></h2><ul>'
        for _, _, operation in _operations(document, tag["name"]):
            yield f'<li><a href="#{operation["operationId"]}">{escape(operation["summary"])}</a></li>'
        yield "</ul>"
    yield '<h2><a href="#problems">Problem codes</a></h2><h2><a href="#schemas">Schemas</a></h2>'


def _groups(document: dict[str, Any], base_url: str) -> Iterator[str]:
    for tag in document["tags"]:
        name = tag["name"]
        yield f'<section id="{name}" aria-labelledby="{name}-title">'
        yield f'<h2 id="{name}-title">{name.capitalize()}</h2>{_prose(tag["description"])}'
        for method, path, operation in _operations(document, name):
            yield _operation(method, path, operation, base_url)
        yield "</section>"


def _operation(method: str, path: str, operation: dict[str, Any], base_url: str) -> str:
    anonymous = operation.get("security") == []
    body = operation.get("requestBody")
    return f"""<article id="{operation["operationId"]}">
<h3>{escape(operation["summary"])}</h3>
<p class="call"><b class="{method.lower()}">{method}</b> <code>{escape(path)}</code>
<span>{"needs no token" if anonymous else "needs the token"}</span></p>
{_prose(operation["description"])}
{_parameters(operation.get("parameters", []))}
{_body(body) if body else ""}
<h4>Try it <small>(a click selects all of it)</small></h4>
{_pre(_curl(method, path, operation, base_url), "copy")}
<h4>Answers</h4>
<ul class="answers">{"".join(_answer(status, answer) for status, answer in operation["responses"].items())}</ul>
</article>
"""


def _parameters(parameters: list[dict[str, Any]]) -> str:
    if not parameters:
        return ""
    rows = (
        (
            f"<code>{escape(parameter['name'])}</code>{_required(parameter.get('required', False))}",
            escape(parameter["in"]),
            _type(parameter["schema"]),
            _inline(parameter.get("description", "")),
        )
        for parameter in parameters
    )
    return "<h4>Parameters</h4>" + _table(("name", "in", "type", "meaning"), rows)


def _body(body: dict[str, Any]) -> str:
    content = body["content"]["application/json"]
    examples = "".join(
        f"<details><summary>Example: {escape(name)}</summary>{_pre(_pretty(example['value']))}</details>"
        for name, example in content["examples"].items()
    )
    return f"<h4>Body</h4><p>JSON: {_type(content['schema'])}</p>{examples}"


def _curl(method: str, path: str, operation: dict[str, Any], base_url: str) -> str:
    """A line for a shell that makes the call, with the first example of its body."""
    url = base_url + path.format_map(_SAMPLES)
    words = ["curl -si" if method == "GET" else f"curl -si -X {method}", shlex.quote(url)]
    if operation.get("security") != []:
        words.append('-H "Authorization: Bearer $ORDERWRIGHT_API_TOKEN"')
    words += [
        f"-H '{parameter['name']}: …'"
        for parameter in operation.get("parameters", [])
        if parameter["in"] == "header" and parameter.get("required")
    ]
    if "requestBody" in operation:
        examples = operation["requestBody"]["content"]["application/json"]["examples"]
        first = next(iter(examples.values()))["value"]
        words += ["-H 'Content-Type: application/json'", f"--data {shlex.quote(json.dumps(first))}"]
    return " \\\n  ".join(words)


def _answer(status: str, answer: dict[str, Any]) -> str:
    shown = "".join(_content(media, content) for media, content in answer.get("content", {}).items())
    number = "other" if status == "default" else status
    return f"<li><b>{number}</b> {_inline(answer['description'])}{shown}</li>"


def _content(media: str, content: dict[str, Any]) -> str:
    schema = content.get("schema")
    what = f"{escape(media)}{': ' + _type(schema) if schema else ''}"
    if "example" not in content:
        return f'<span class="media">{what}</span>'
    example = content["example"]
    text = example if isinstance(example, str) else _pretty(example)
    problem = f": <code>{escape(example['code'])}</code>" if media == MEDIA_TYPE else ""
    return (
        f'<span class="media">{what}</span><details><summary>Example{problem}</summary>{_pre(text)}</details>'
    )


def _problem_codes() -> str:
    rows = (
        (f"<code>{escape(code)}</code>", str(status), _inline(meaning), "yes" if again else "no")
        for code, status, meaning, again in answered_codes()
    )
    return f"""<section id="problems" aria-labelledby="problems-title">
<h2 id="problems-title">Problem codes</h2>
<p>Every error is a <a href="#schema-ProblemDetails">ProblemDetails</a>. Rely on its <code>code</code>.</p>
{_table(("code", "status", "means", "same request later?"), rows)}
</section>
"""


def _schema(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    fields = schema.get("properties", {})
    rows = (
        (
            f"<code>{escape(field)}</code>{_required(field in required)}",
            _type(of),
            _inline(of.get("description", "")),
        )
        for field, of in fields.items()
    )
    table = _table(("field", "type", "meaning"), rows) if fields else f"<p>{_type(schema)}</p>"
    return f"""<article id="schema-{escape(name)}">
<h3>{escape(name)}</h3>
{_prose(schema.get("description", ""))}
{table}
</article>
"""


def _type(schema: dict[str, Any]) -> str:
    """A schema in a few words, with links to those it names."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#schema-{name}">{name}</a>'
    for either in ("anyOf", "oneOf"):
        if either in schema:
            return " or ".join(dict.fromkeys(_type(one) for one in schema[either]))
    if values := schema.get("enum", [schema["const"]] if "const" in schema else []):
        return " | ".join(f"<code>{escape(str(value))}</code>" for value in values)
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}{_limits(schema)}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    return f"{escape(schema.get('format', kind))}{_limits(schema)}"


_LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "minLength": "{} or more characters",
    "maxLength": "at most {} characters",
    "minItems": "{} or more of them",
    "maxItems": "at most {} of them",
    "pattern": "like {}",
    "default": "else {}",
}


# A pattern that only says which texts no database can store: the page has said so once.
ANY_TEXT = r"^[^\x00]"


def _limits(schema: dict[str, Any]) -> str:
    said = [
        words.format(f"<code>{escape(str(schema[key]))}</code>")
        for key, words in _LIMITS.items()
        if schema.get(key) not in (None, "", []) and not str(schema[key]).startswith(ANY_TEXT)
    ]
    return f", {', '.join(said)}" if said else ""


def _required(required: bool) -> str:
    return " <em>required</em>" if required else ""


def _table(titles: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """Cells are HTML already. A column that has nothing to tell is left out."""
    every = list(rows)
    told = [column for column in range(len(titles)) if any(row[column] for row in every)]
    head = "".join(f'<th scope="col">{titles[column]}</th>' for column in told)
    body = "".join(f"<tr>{''.join(f'<td>{row[column]}</td>' for column in told)}</tr>" for row in every)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _prose(text: str) -> str:
    paragraphs = (" ".join(part.split()) for part in text.split("\n\n"))
    return "".join(f"<p>{_inline(paragraph)}</p>" for paragraph in paragraphs if paragraph)


def _inline(text: str) -> str:
    return re.sub(r"(`+)(.+?)\1", r"<code>\2</code>", escape(text))


def _pre(text: str, kind: str = "") -> str:
    # In reach of the keyboard, as it may have to be scrolled.
    return f'<pre tabindex="0" class="{kind}"><code>{escape(text)}</code></pre>'


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1d2430; --quiet: #566072; --line: #d9dee7; --box: #f5f7fa;
  --link: #0b57b7; --get: #0b6b3a; --post: #8a4b00; }
@media (prefers-color-scheme: dark) {
  :root { --page: #12161d; --text: #e4e8ef; --quiet: #a2acbd; --line: #2e3644; --box: #1b212b; --link: #85b7ff;
    --get: #7fd6a4; --post: #f0b56b; }
}
* { box-sizing: border-box; }
html { scroll-padding-top: 1rem; }
body { margin: 0 auto; max-width: 84rem; display: grid; grid-template-columns: 17rem minmax(0, 1fr);
  background: var(--page); color: var(--text); font: 1rem/1.55 system-ui, sans-serif; }
a { color: var(--link); }
a:focus-visible, summary:focus-visible, pre:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.skip { position: absolute; left: -100rem; }
.skip:focus { left: 1rem; top: 1rem; padding: .5rem; background: var(--page); }
nav { position: sticky; top: 0; align-self: start; max-height: 100vh; overflow: auto;
  padding: 1.5rem 1rem 1.5rem 1.5rem; font-size: .9rem; }
nav h2 { margin: 1rem 0 .25rem; font-size: .95rem; border: 0; }
nav ul { margin: 0; padding: 0; list-style: none; }
nav li { padding: .1rem 0 .1rem .75rem; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
main { padding: 1.5rem 2rem 4rem; border-left: 1px solid var(--line); min-width: 0; }
h1 { margin-top: 0; }
h1 small, h4 small { color: var(--quiet); font-weight: normal; font-size: .8em; }
h2 { margin-top: 3rem; border-bottom: 1px solid var(--line); }
h3 { margin: 0 0 .25rem; font-size: 1.2rem; }
h4 { margin: 1.25rem 0 .35rem; }
p { max-width: 46rem; margin: .4rem 0; }
article { margin: 1.5rem 0; padding: 1.25rem; border: 1px solid var(--line); border-radius: .5rem; }
code, pre { font: .875rem/1.5 ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.call b { font-family: ui-monospace, Menlo, Consolas, monospace; }
.call .get { color: var(--get); }
.call .post, .call .delete { color: var(--post); }
.call span, .media { color: var(--quiet); font-size: .85rem; margin-left: .75rem; }
pre { margin: .35rem 0; padding: .75rem 1rem; max-height: 24rem; overflow: auto; background: var(--box);
  border: 1px solid var(--line); border-radius: .35rem; white-space: pre-wrap; }
.copy { user-select: all; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { padding: .35rem .75rem .35rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th, em { color: var(--quiet); }
em { font-size: .8rem; }
td:first-child code { overflow-wrap: normal; white-space: nowrap; }
.answers { padding: 0; list-style: none; }
.answers li { padding: .3rem 0; border-bottom: 1px solid var(--line); }
summary { cursor: pointer; color: var(--link); font-size: .9rem; width: fit-content; }
@media (max-width: 56rem) {
  body { display: block; }
  nav { position: static; max-height: none; }
  main { border: 0; padding: 1rem; }
}
"""
