"""A bound on what a request may send."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.service.messages import Json


class BodyLimit:
    """Answers 413 to a longer body, read no further than that."""

    def __init__(self, app: ASGIApp, at_most: int) -> None:
        self.app = app
        self.at_most = at_most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request whose body is short enough."""
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD", "OPTIONS"}:
            await self.app(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.at_most:
                refusal = Json({"message": f"the body is over {self.at_most} bytes"}, 413)
                await refusal(scope, receive, send)
                return
        sent = False

        async def once() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, once, send)
