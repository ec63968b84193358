"""What OpenAPI says of the routes: bodies of two content types, errors of one shape, and a page for people.

The page is plain HTML: the usual one fetches its program from another host, which a machine without a network cannot.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import honeclip
from honeclip.serving import schemas

WORDS = {
    400: "An item cannot be used; the message names it and the fault.",
    401: "The API key is missing or not known.",
    403: "The request comes from another site.",
    404: "There is nothing here.",
    408: "The body did not arrive in time.",
    413: "More bytes, pixels or characters than allowed.",
    415: "Another content type.",
    422: "The body has another shape.",
    429: "The queue is full; Retry-After says when to try again.",
    500: "The model failed on an item.",
    503: "The server is about to stop, or its device does not answer.",
    504: "The deadline passed.",
}

BODIES: tuple[type[BaseModel], ...] = (
    schemas.Similarity,
    schemas.Pairs,
    schemas.Classify,
    schemas.Search,
    schemas.Embeddings,
)

_REF = "#/components/schemas/{model}"
_UPLOAD = {"type": "string", "format": "binary"}


def answers(answer: type[BaseModel], also: Sequence[int] = ()) -> dict[str, Any]:
    """For a route's decorator: its answer and the errors that each route can have."""
    every = sorted({401, 403, 408, 413, 500, 503, *also})
    return {
        "response_model": answer,
        "response_model_exclude_none": True,
        "responses": {status: {"model": schemas.Error, "description": WORDS[status]} for status in every},
    }


def describes(
    body: type[BaseModel], answer: type[BaseModel], *, files: Sequence[str] = (), also: Sequence[int] = ()
) -> dict[str, Any]:
    """The same for a route with a body.

    Args:
        body: the schema of its JSON.
        answer: of the answer.
        files: fields that a form may carry as files; none: only JSON is taken.
        also: further errors.
    """
    content: dict[str, Any] = {"application/json": {"schema": {"$ref": _REF.format(model=body.__name__)}}}
    examples = body.model_config.get("json_schema_extra")
    if isinstance(examples, dict):
        shown = examples["examples"]
        assert isinstance(shown, list)
        content["application/json"]["examples"] = {
            f"example {number}": {"value": one} for number, one in enumerate(shown, start=1)
        }
    if files:
        content["multipart/form-data"] = {"schema": _form(body, files)}
    made = answers(answer, (400, 415, 422, 429, 504, *also))
    return {**made, "openapi_extra": {"requestBody": {"required": True, "content": content}}}


def install(app: FastAPI) -> None:
    """Makes the application say all that."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title="honeclip",
                version=honeclip.__version__,
                description="A CLIP model over HTTP: similarity, classification, search and embeddings of images and texts.",
                routes=app.routes,
            )
            _, bodies = models_json_schema([(one, "validation") for one in BODIES], ref_template=_REF)
            made["components"]["schemas"] |= bodies["$defs"]
            made["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def page(document: dict[str, Any], address: str) -> str:
    """Every route with its fields and a curl line, as HTML without scripts."""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>honeclip API</title><style>",
        "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}",
        "pre{background:#8881;padding:.8rem;overflow:auto}code,pre{font-size:13px}h2{margin-top:2.5rem}</style>",
        f"<h1>honeclip {html.escape(document['info']['version'])}</h1><p>{html.escape(document['info']['description'])} ",
        "The whole of it is in <a href='/openapi.json'>/openapi.json</a>.</p>",
    ]
    for path, methods in document["paths"].items():
        for method, said in methods.items():
            parts.append(f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>")
            parts.append(f"<p>{html.escape(said.get('description', ''))}</p>")
            content = said.get("requestBody", {}).get("content", {})
            parts.append(f"<pre>{html.escape(_curl(address, path, method, content))}</pre>")
            parts += [
                f"<h3>{html.escape(kind)}</h3>{_fields(document, one['schema'])}" for kind, one in content.items()
            ]
            listed = "".join(
                f"<li><code>{status}</code> {html.escape(one['description'])}</li>"
                for status, one in said["responses"].items()
            )
            parts.append(f"<ul>{listed}</ul>")
    return "".join(parts)


def _form(body: type[BaseModel], files: Sequence[str]) -> dict[str, Any]:
    own = body.model_json_schema(ref_template=_REF)
    fields: dict[str, Any] = {}
    for name, one in own["properties"].items():
        if name in files:
            fields[name] = {**one, "items": _UPLOAD} if one.get("type") == "array" else _UPLOAD
        else:
            choices = [kind for kind in one.get("anyOf", ()) if kind.get("type") != "null"]
            fields[name] = {**choices[0], "description": one.get("description", "")} if choices else one
    return {"type": "object", "properties": fields, "required": own.get("required", []), "additionalProperties": False}


def _curl(address: str, path: str, method: str, content: dict[str, Any]) -> str:
    examples = content.get("application/json", {}).get("examples")
    if method == "get" or not examples:
        return f"curl {address}{path}"
    example = next(iter(examples.values()))["value"]
    return f"curl {address}{path} -H 'Content-Type: application/json' \\\n  -d '{json.dumps(example)}'"


def _fields(document: dict[str, Any], schema: dict[str, Any]) -> str:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    needed = schema.get("required", ())
    listed = [
        f"<li><code>{html.escape(name)}</code>{'' if name in needed else ' (optional)'} "
        f"{html.escape(one.get('description', ''))}</li>"
        for name, one in schema.get("properties", {}).items()
    ]
    return f"<ul>{''.join(listed)}</ul>"
