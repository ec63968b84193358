"""The application: routes, health, figures and errors around one engine, inside of the guard."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from honeclip.serving import metrics, openapi, routes, schemas
from honeclip.serving.guard import Guard, error_body
from honeclip.serving.keys import Keys
from honeclip.serving.refusals import Refused
from honeclip.serving.routes import Service

PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"


def create(service: Service) -> FastAPI:
    """The application of a service, without its guard: a page may still be mounted on it."""
    app = FastAPI(title="honeclip", docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    engine = service.engine
    app.include_router(routes.router(service))
    openapi.install(app)

    @app.get("/livez", response_model=schemas.State)
    async def livez() -> schemas.State:
        """Whether the process answers at all."""
        return schemas.State(status="alive")

    @app.get(
        "/readyz", response_model=schemas.State, responses={503: {"model": schemas.State, "description": "Not now."}}
    )
    async def readyz() -> Response:
        """Whether requests should be sent here: batches make progress, the queue has room, the server stays."""
        reason = engine.unready.partition(":")[0]
        state = schemas.State(status="not ready" if reason else "ready", reason=reason)
        return JSONResponse(state.model_dump(), status_code=503 if reason else 200)

    @app.get("/health")
    async def health() -> dict[str, object]:
        """Model, device, queue, cache and memory, for people."""
        return engine.facts()

    @app.get("/metrics", response_class=Response)
    async def figures() -> Response:
        """Figures for Prometheus."""
        return Response(service.metrics.text(), headers={"Content-Type": metrics.CONTENT_TYPE})

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        address = str(request.base_url).rstrip("/")
        return HTMLResponse(openapi.page(app.openapi(), address), headers={"Content-Security-Policy": PAGE_POLICY})

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Refused)
        service.metrics.rejected(error.reason)
        return JSONResponse(error_body(error.status, error.reason, error.message), error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        words = {404: "there is nothing here; /docs lists the routes", 405: "this route takes another method"}
        message = words.get(error.status_code, "the request cannot be answered")
        return JSONResponse(error_body(error.status_code, "http", message), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(error_body(500, "internal", "the server failed; its log says why"), 500)

    return app


def guarded(app: FastAPI, service: Service, keys: Keys) -> Guard:
    """The application inside of its guard, as it is served."""
    engine = service.engine
    return Guard(app, service.settings, keys, service.metrics, lambda: engine.draining)
