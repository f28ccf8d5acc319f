"""The routes of a server.

    GET  /health            whether it runs; public, and says nothing else
    POST /v1/join           a client begins a session
    GET  /v1/task           what it is asked: answered as soon as there is something
    POST /v1/reply/{task}   what it answers; the same reply may come many times
    POST /v1/alive          that it is still at work
    POST /v1/leave          that it goes
    GET  /v1/status, /, /metrics    for the operator

Every route but the first wants a token, the routes of clients the secret of their session too.
Whoever says something wrong gets a 4xx and one line.
"""

# Annotations are values here, not text: FastAPI reads those of functions inside of a function.

import asyncio
import base64
import binascii
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from limits import RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genesis.errors import FederationError
from genesis.federated.messages import Reply
from genesis.federated.transport.body import COMPRESSIONS, decode_reply, inflate, largest_reply
from genesis.federated.transport.http.hub import Hub, RefusedError, RunEndedError, Session
from genesis.federated.transport.http.metrics import CONTENT_TYPE, metrics_text
from genesis.federated.transport.http.page import POLICY, page
from genesis.federated.transport.http.protocol import (
    COMPRESSION,
    POLL_SECONDS,
    SESSION,
    TASK,
    VERSION,
    is_loopback,
)
from genesis.federated.transport.http.tokens import ANYONE, Tokens

__all__ = ["CERTIFICATE", "create_app"]

log = logging.getLogger(__name__)

CERTIFICATE = "genesis.certificate"  # where a connection says whose certificate it showed

SMALL_BODY = 1 << 14  # bytes of JSON
STALL_SECONDS = 30.0  # that a body may take beside what its size needs
SLOWEST = 20_000  # bytes a second
CHUNK = 1 << 18  # bytes of a response at a time, so that a slow reader holds no copy of all of it
WRONG_TOKENS = RateLimitItemPerMinute(30)  # of one address
CALLS = RateLimitItemPerSecond(100)  # of one session
HEADERS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))


class Join(BaseModel):
    """What a client says when it joins."""

    model_config = ConfigDict(extra="forbid", strict=True)

    client_id: str = Field(min_length=1, max_length=100)
    former: str | None = Field(default=None, max_length=200)


class Chunked(Response):
    """Bytes that are sent piece by piece; the listener cuts off who takes them too slowly."""

    def __init__(self, content: bytes, headers: Mapping[str, str]) -> None:
        super().__init__(None, headers=dict(headers), media_type="application/octet-stream")
        self.content = content
        self.headers["Content-Length"] = str(len(content))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        view = memoryview(self.content)
        for start in range(0, len(view), CHUNK):
            more = start + CHUNK < len(view)
            part = bytes(view[start : start + CHUNK])
            await send({"type": "http.response.body", "body": part, "more_body": more})


def create_app(
    hub: Hub,
    tokens: Tokens,
    status: Callable[[], dict[str, Any]],
    welcome: Mapping[str, Any] | None = None,
) -> FastAPI:
    """The web application of a server.

    Args:
        hub: Where sessions, tasks and replies are.
        tokens: Who may ask.
        status: What the run says of itself.
        welcome: What a client is told when it has joined, beside the secret of its session.
    """
    # No description of the routes: its pages would be public.
    app = FastAPI(
        title="genesis", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    limiter = FixedWindowRateLimiter(MemoryStorage())
    decoding = asyncio.Semaphore(2)  # it takes two more copies of a body, for a moment

    def refuse_token(request: Request) -> HTTPException:
        """The answer to a wrong token, and another one to too many of them."""
        if not limiter.hit(WRONG_TOKENS, _address(request)):
            return HTTPException(429, "too many wrong tokens", {"Retry-After": "60"})
        asked = {"WWW-Authenticate": _challenge(request)}
        return HTTPException(401, "a valid token is needed", asked)

    def check_host(request: Request) -> None:
        # Without tokens the browser of this machine could be led here by any page that it shows.
        if tokens.open and is_loopback(_address(request)) and not is_loopback(_host(request)):
            raise HTTPException(403, "this server is for this machine only")

    async def token_owner(request: Request) -> str:
        check_host(request)
        owner = tokens.owner(_bearer(request))
        if owner is None:
            raise refuse_token(request)
        return owner

    async def operator(request: Request) -> None:
        check_host(request)
        given = _bearer(request) or _password(request)
        if tokens.is_operator(given):
            return
        if not tokens.open and tokens.owner(given) is not None:
            raise HTTPException(403, "this token is a client's; the operator has another one")
        raise refuse_token(request)

    async def session(request: Request, owner: Annotated[str, Depends(token_owner)]) -> Session:
        found = hub.session(request.headers.get(SESSION, ""))
        _check_owner(request, owner, found.client_id)
        if not limiter.hit(CALLS, found.client_id):
            raise HTTPException(429, "too many requests", {"Retry-After": "1"})
        return found

    Client = Annotated[Session, Depends(session)]

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/v1/join", openapi_extra=_json_body(Join))
    async def join(request: Request, owner: Annotated[str, Depends(token_owner)]) -> dict[str, Any]:
        try:
            said = Join.model_validate_json(bytes(await _read(request, SMALL_BODY)))
        except ValidationError:
            raise RefusedError(422, "a client joins with client_id and former") from None
        _check_owner(request, owner, said.client_id)
        # A page in a browser cannot send this header elsewhere without being allowed to.
        version = request.headers.get(VERSION)
        if version is None:
            raise RefusedError(400, f"a client says its version in {VERSION}")
        secret = hub.join(said.client_id, version, said.former)
        log.info("client '%s' joined from %s", said.client_id, _address(request))
        again = hub.has_answered(said.client_id)
        return {"session": secret, "again": again, **(welcome or {})}

    @app.get("/v1/task", response_model=None)
    async def task(request: Request, client: Client) -> Response:
        given = await hub.next_task(client, POLL_SECONDS)
        if given is None:
            return Response(status_code=204)
        how = request.headers.get(COMPRESSION)
        if how is not None and how not in COMPRESSIONS:
            raise RefusedError(400, "bodies are compressed with gzip or zstd")
        content = await run_in_threadpool(given.body.packed, how)
        hub.sent += len(content)
        headers = {TASK: given.id}
        return Chunked(content, headers | ({} if how is None else {COMPRESSION: how}))

    @app.post("/v1/reply/{task_id}", openapi_extra=_binary_body())
    async def reply(request: Request, client: Client, task_id: str) -> dict[str, bool]:
        hub.check(client)
        answered = hub.task(client, task_id)
        if answered is None:
            # Told after it has sent everything, because not every program listens before.
            await _drain(request)
            return {"accepted": False}
        limit = largest_reply(answered.kind, answered.expects)
        body = await _read(request, limit)
        hub.received += len(body)

        def decode() -> Any:
            plain = inflate(body, request.headers.get(COMPRESSION), limit)
            return decode_reply(plain, client.client_id, answered.expects)

        try:
            async with decoding:
                if hub.task(client, task_id) is not answered:  # another one of it was quicker
                    return {"accepted": False}
                decoded = await run_in_threadpool(decode)
        except FederationError as error:
            # The round need not wait for it: a reply like this would come again.
            hub.deliver(client, answered, Reply(client.client_id, error=str(error)))
            raise RefusedError(422, str(error)) from None
        return {"accepted": hub.deliver(client, answered, decoded)}

    @app.post("/v1/alive")
    async def alive(client: Client) -> dict[str, bool]:
        hub.check(client)
        return {"alive": True}

    @app.post("/v1/leave")
    async def leave(client: Client) -> dict[str, bool]:
        hub.leave(client)
        return {"left": True}

    @app.get("/v1/status", dependencies=[Depends(operator)])
    async def show_status() -> dict[str, Any]:
        return status()

    @app.get("/metrics", dependencies=[Depends(operator)], response_class=PlainTextResponse)
    async def show_metrics() -> Response:
        return Response(metrics_text(status()), media_type=CONTENT_TYPE)

    @app.get("/", dependencies=[Depends(operator)], response_class=HTMLResponse)
    async def show_page() -> Response:
        return HTMLResponse(
            page(), headers={"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}
        )

    _answer_errors(app)
    app.add_middleware(_AddHeaders)
    return app


def _answer_errors(app: FastAPI) -> None:
    """Every refusal as one line of JSON."""

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, RefusedError)
        headers = {}
        if error.retry_after is not None:
            headers["Retry-After"] = str(max(1, round(error.retry_after + 0.5)))
        return JSONResponse({"error": error.reason}, error.status, headers)

    async def over(_: Request, error: Exception) -> Response:
        assert isinstance(error, RunEndedError)
        told = {"state": error.state, "error": error.reason}
        if error.state == "interrupted":  # it may be started again, so that clients wait
            return JSONResponse(told, 503, {"Retry-After": "1"})
        return JSONResponse(told, 410)

    async def failed(_: Request, error: Exception) -> Response:
        assert isinstance(error, StarletteHTTPException)
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    app.add_exception_handler(RefusedError, refused)
    app.add_exception_handler(RunEndedError, over)
    app.add_exception_handler(StarletteHTTPException, failed)


class _AddHeaders:
    """Gives every response the headers that all have."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        await self.app(scope, receive, send_more)


async def _read(request: Request, limit: int) -> bytearray:
    """A body of at most limit bytes, within the time that its size needs.

    Raises:
        RefusedError: It is larger, or takes too long.
    """
    body = bytearray()
    if (declared := _declared(request)) > limit:
        raise RefusedError(
            413, f"a body of {declared:,} bytes is too large; at most {limit:,} are taken"
        )
    async for chunk in _chunks(request, declared or limit):
        body += chunk
        if len(body) > limit:
            raise RefusedError(413, f"a body is too large; at most {limit:,} bytes are taken")
    return body


async def _drain(request: Request) -> None:
    """Take in a body and forget it."""
    declared = _declared(request)
    if declared > 1 << 30:
        raise RefusedError(413, "a body is too large")
    async for _ in _chunks(request, declared or 1 << 20):
        pass


async def _chunks(request: Request, size: int) -> AsyncIterator[bytes]:
    """A body as it comes, within the time that so many bytes need."""
    try:
        async with asyncio.timeout(STALL_SECONDS + size / SLOWEST):
            async for chunk in request.stream():
                yield chunk
    except TimeoutError:
        raise RefusedError(408, "the body takes too long") from None
    except ClientDisconnect:
        raise RefusedError(400, "the body was cut short") from None


def _declared(request: Request) -> int:
    """The length that a body says it has, 0 if it says none."""
    text = request.headers.get("content-length", "0")
    return int(text) if text.isdecimal() and text.isascii() and len(text) < 20 else 1 << 62


def _check_owner(request: Request, owner: str, client_id: str) -> None:
    """A token or certificate of one client opens nothing for another one."""
    if owner not in (ANYONE, client_id):
        raise RefusedError(403, "this token belongs to another client id")
    certificate = request.scope.get(CERTIFICATE)
    if certificate is not None and certificate != client_id:
        raise RefusedError(403, "this certificate belongs to another client id")


def _bearer(request: Request) -> str | None:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def _password(request: Request) -> str | None:
    """The token of a browser, which asks its user for a name and a password."""
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        return base64.b64decode(given, validate=True).decode("utf-8").partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return None


def _challenge(request: Request) -> str:
    """Browsers are asked for a password, programs for a token."""
    return 'Basic realm="genesis", charset="UTF-8"' if request.url.path == "/" else "Bearer"


def _host(request: Request) -> str:
    """The name that a client has for this server; "" if it says none."""
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else "?"


def _json_body(model: type[BaseModel]) -> dict[str, Any]:
    """A body that is read by hand, within bounds, as the description of the routes shows it."""
    content = {"application/json": {"schema": model.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


def _binary_body() -> dict[str, Any]:
    content = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    return {"requestBody": {"required": True, "content": content}}
