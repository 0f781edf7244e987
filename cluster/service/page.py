"""The pages for people: budget, runs, loss against size; every address. They need no JavaScript.

A key is given once, in a form; what the browser keeps is a token that does not tell it, in a cookie
no script can read.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, RedirectResponse, Response

from analysis import wording
from cluster.service import chart, configuration
from cluster.service.chart import Dot
from cluster.service.desk import Desk
from cluster.service.keys import SESSION_SECONDS, Key
from cluster.service.records import Run
from cluster.service.refusals import Refusal

COOKIE = "session"
SHOWN = 500
"""Runs in the table, the newest."""
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def add(app: FastAPI, desk: Desk) -> None:
    """Give `app` its pages."""
    environment = Environment(
        loader=PackageLoader("cluster.service"), undefined=StrictUndefined, autoescape=True,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    template = environment.get_template("page.html.jinja")
    description = environment.get_template("docs.html.jinja")

    def shown(key: Key | None, *, refusal: str = "", status: int = 200) -> Response:
        content = {} if key is None else _content(desk, key)
        text = template.render(say=wording, key=key, refusal=refusal, **content)
        return HTMLResponse(text, status, headers=HEADERS)

    @app.get("/", include_in_schema=False)
    def page(request: Request) -> Response:  # not async: a thread draws, others are answered
        return shown(desk.visitor(request.cookies.get(COOKIE, "")))

    @app.post("/login", include_in_schema=False)
    async def login(request: Request) -> Response:
        form = parse_qs((await request.body()).decode("utf-8", "replace"))
        try:
            key = desk.key(form.get("key", [""])[0])
        except Refusal as refusal:
            # Not its own text: what was typed may be somebody's key but for a letter.
            return shown(None, refusal="This key is not known.", status=int(refusal.status))
        response = RedirectResponse("/", 303, headers=HEADERS)
        response.set_cookie(
            COOKIE, desk.session(key), max_age=SESSION_SECONDS, httponly=True, samesite="strict",
            secure=_is_private(request, trusts_proxy=desk.state.settings.trusts_proxy),
        )  # fmt: skip
        return response

    @app.post("/logout", include_in_schema=False)
    async def logout() -> Response:
        response = RedirectResponse("/", 303, headers=HEADERS)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(description.render(api=app.openapi()), headers=HEADERS)


def _is_private(request: Request, *, trusts_proxy: bool) -> bool:
    """Whether the browser speaks TLS, to us or to the proxy before us."""
    told = request.headers.get("X-Forwarded-Proto", "") if trusts_proxy else ""
    # A chain of proxies appends: the first is the one that the browser spoke to.
    return (told.split(",")[0].strip().lower() or request.url.scheme) == "https"


def _content(desk: Desk, key: Key) -> dict[str, Any]:
    runs = desk.runs(key)
    return {
        "account": desk.account(key),
        "runs": list(reversed(runs))[:SHOWN],
        "count": len(runs),
        "alive": any(not run.over for run in runs),
        "chart": chart.chart(_dots(desk, runs)),
        "backend": desk.state.settings.backend,
        "area": chart,
    }


def _dots(desk: Desk, runs: Sequence[Run]) -> list[Dot]:
    settings, settled = desk.state.settings, desk.state.settled
    found = []
    for run in runs:
        if run.status == "completed" and run.loss is not None:
            asked = run.configuration
            trial = configuration.trial(settings, asked, settled.vocab_size, settled.most_tokens)
            found.append(
                Dot(flops=run.flops, params=trial.shape.params_non_embedding, loss=run.loss)
            )
    return found
