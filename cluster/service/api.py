"""The HTTP service: the course's three addresses, and asynchronous ones beside them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from cluster.service import page
from cluster.service.body import BodyLimit
from cluster.service.desk import Desk
from cluster.service.keys import Key
from cluster.service.messages import (
    Asked,
    Budget,
    Health,
    Json,
    Loss,
    Message,
    PreviousRun,
    PreviousRuns,
    Runs,
    RunState,
)
from cluster.service.refusals import Refusal
from cluster.service.state import State


def build(state: State, *, replicas: int = 1) -> FastAPI:
    """The service's ASGI application.

    Args:
        state: whose ledger it works on.
        replicas: processes that share the load, each with an application of its own.
    """
    desk = Desk(state, replicas=replicas)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        desk.close()

    app = FastAPI(
        title="isoflop training API",
        summary="What loss does this model reach with this compute?",
        default_response_class=Json,
        lifespan=lifespan,
        docs_url=None,  # its script would come from the internet: page.py has one of ours
        redoc_url=None,
    )
    app.add_middleware(BodyLimit, at_most=state.settings.limits.body)
    _tell_refusals(app)
    _add_course(app, desk)
    _add_runs(app, desk)
    page.add(app, desk)
    return app


def _responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Refusals an address may answer with, for its description."""
    return {status: {"model": Message} for status in statuses}


def _who(desk: Desk) -> Any:
    """A dependency that says whose request it is."""

    def who(
        api_key: Annotated[str | None, Query(description="Your key, URL-encoded.")] = None,
        x_api_key: Annotated[str | None, Header(description="The same, kept out of URLs.")] = None,
    ) -> Key:
        presented = api_key if api_key is not None else x_api_key
        if presented is None:
            raise Refusal("api_key is missing")
        return desk.key(presented)

    return Annotated[Key, Depends(who)]


def _add_course(app: FastAPI, desk: Desk) -> None:
    """The addresses of the course's service, as its clients know them."""
    Who = _who(desk)

    @app.get("/loss", responses=_responses(404, 422, 429, 503))
    async def loss(key: Who, asked: Annotated[Asked, Query()]) -> Loss:
        """The loss a configuration reaches; waits until it is trained. Asked again it is free."""
        run = await desk.answered(key, asked.configuration)
        assert run.loss is not None
        return Loss(loss=run.loss, total_flops_used=desk.total(key))

    @app.get("/total_flops_used", responses=_responses(422, 429))
    async def total_flops_used(key: Who) -> int:
        """FLOP charged to the key so far."""
        return desk.total(key)

    @app.get("/previous_runs", responses=_responses(422, 429))
    async def previous_runs(key: Who) -> PreviousRuns:
        """Every answered configuration of the key, in the order they were asked."""
        answered = [
            PreviousRun(**vars(run.configuration), loss=run.loss)
            for run in desk.answers(key)
            if run.loss is not None
        ]
        return PreviousRuns(previous_runs=answered)

    @app.get("/health", responses=_responses(503))
    async def health() -> Health:
        """Whether the service answers, and a runner works on what is asked."""
        desk.check()
        return Health(status="ok", backend=desk.state.settings.backend)


def _add_runs(app: FastAPI, desk: Desk) -> None:
    """The same without waiting."""
    Who = _who(desk)

    @app.post(
        "/runs",
        status_code=202,
        responses={200: {"model": RunState}} | _responses(400, 404, 413, 422, 429),
    )
    async def ask(key: Who, asked: Asked, response: Response) -> RunState:
        """Ask a configuration; 202 while it waits or trains, 200 once it is answered.

        A body that is no text at all is 400, one that is not six numbers is 422.
        """
        run = await desk.ask(key, asked.configuration)
        response.status_code = 200 if run.over else 202
        response.headers["Location"] = f"/runs/{run.id}"
        return RunState.of(run)

    @app.get("/runs", responses=_responses(422, 429))
    async def runs(key: Who) -> Runs:
        """Every run of the key, in the order they were asked."""
        return Runs(runs=list(map(RunState.of, desk.runs(key))))

    @app.get("/runs/{run_id}", responses=_responses(404, 422, 429))
    async def run(key: Who, run_id: str) -> RunState:
        """Where a run stands."""
        return RunState.of(desk.run(key, run_id))

    @app.delete("/runs/{run_id}", responses=_responses(404, 409, 422, 429))
    async def cancel(key: Who, run_id: str) -> RunState:
        """Give a run up: free while it waits; once it trains, what it has spent is charged."""
        return RunState.of(await desk.cancel(key, run_id))

    @app.get("/budget", responses=_responses(422, 429))
    async def budget(key: Who) -> Budget:
        """What is left of the key's budget."""
        return Budget(**vars(desk.account(key)))


def _tell_refusals(app: FastAPI) -> None:
    """Every refusal as the course's service told them: a top-level message."""

    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> Json:
        headers = {"Retry-After": "1"} if refusal.status in {429, 503} else None
        return Json({"message": str(refusal)}, refusal.status, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Json:
        faults = [f"{fault['loc'][-1]}: {fault['msg']}" for fault in error.errors()]
        return Json({"message": "; ".join(faults)}, 422)

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> Json:
        return Json({"message": error.detail}, error.status_code, headers=error.headers)

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> Json:
        return Json({"message": f"the service failed: {type(error).__name__}"}, 500)
