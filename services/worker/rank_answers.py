"""What several ranks answer to one link action, as one event: pure, so that a link of ranks looks like any other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from services.core.actions import CloseLink, Event, LinkLost, LinkUp, ReceiveDone, SendDone
from services.core.peer import LinkKey

Done = SendDone | ReceiveDone
CHECKSUM = "checksum"


@dataclass(slots=True)
class OpenedLink:
    """What the ranks have said of one link."""

    up: int = 0
    lost: int = 0
    reason: str = ""


class RankAnswers:
    """Merges the answers of all ranks: one event when all have answered, with the worst of them.

    Args:
        ranks: of this worker.
        condemn: a link broke at one rank; called once for each link, to break it at the others.
    """

    def __init__(self, ranks: int, condemn: Callable[[CloseLink], None]) -> None:
        self._ranks = ranks
        self._condemn = condemn
        self._links: dict[LinkKey, OpenedLink] = {}
        self._posts: dict[tuple[type[Done], LinkKey, str, int, int], list[str]] = {}

    def opened(self, link: LinkKey) -> None:
        """A link is being opened at all ranks."""
        self._links[link] = OpenedLink()

    @property
    def active(self) -> int:
        """Links that live at some rank."""
        return len(self._links)

    def take(self, event: Event) -> Event | None:
        """One rank's answer; the merged one when it was the last."""
        match event:
            case LinkUp(link=link):
                known = self._links[link]
                known.up += 1
                return event if known.up == self._ranks else None
            case LinkLost(link=link):
                known = self._links[link]
                known.lost += 1
                known.reason = known.reason or event.reason
                if known.lost == 1:
                    self._condemn(CloseLink(link, known.reason))
                if known.lost < self._ranks:
                    return None
                del self._links[link]
                return replace(event, reason=known.reason)
            case SendDone() | ReceiveDone():
                return self._take_done(event)
        raise AssertionError(f"no answer of a link: {event}")

    def _take_done(self, event: Done) -> Done | None:
        name = (type(event), event.link, event.transfer_id, event.attempt, event.part)
        errors = self._posts.setdefault(name, [])
        errors.append(event.error)
        if len(errors) < self._ranks:
            return None
        del self._posts[name]
        broken = [error for error in errors if error not in ("", CHECKSUM)]
        return replace(event, error=broken[0] if broken else max(errors))
