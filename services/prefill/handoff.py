"""Prompts that are computed here and decoded elsewhere, from their first token until the receiver owns them."""

from __future__ import annotations

from services.core.request import Request


class HandoffQueue:
    """Requests whose blocks a transfer holds; the scheduler knows them no more."""

    def __init__(self) -> None:
        self._requests: dict[str, Request] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: Request) -> None:
        """The first token is out and the KV is offered."""
        self._requests[request.request_id] = request

    def pop(self, request_id: str) -> Request | None:
        """Handed off, failed or cancelled."""
        return self._requests.pop(request_id, None)

    def get(self, request_id: str) -> Request | None:
        """One of them."""
        return self._requests.get(request_id)

    def requests(self) -> list[Request]:
        """All of them, oldest first."""
        return list(self._requests.values())
