"""Which process groups exist or should: epochs of the pairs we receive on, and the links we send on."""

from __future__ import annotations

from services.core.actions import CloseLink, LinkRole, OpenLink
from services.core.peer import LinkKey
from services.core.request import WorkerRef
from services.kvcache.transfer_entry import Outbox


class LinkBook:
    """Opens links on first use and never uses a condemned one again.

    The receiver numbers the epochs of a pair, so both ends agree on which rebuild they mean.

    Attributes:
        ranks: tensor parallelism of this worker, which peers are told.
    """

    def __init__(self, me: WorkerRef, store_address: str, out: Outbox, quarantine_after: int, ranks: int = 1) -> None:
        self._me = me
        self.store_address = store_address
        self.ranks = ranks
        self._out = out
        self._epochs: dict[WorkerRef, int] = {}
        self._open: dict[LinkKey, LinkRole] = {}
        self._quarantine_after = quarantine_after
        self._wrong: dict[LinkKey, int] = {}
        self._newest: dict[str, int] = {}  # incarnation that spoke last, by name: no other one is left here

    def to_receive(self, sender: WorkerRef, sender_ranks: int) -> LinkKey:
        """The current link from `sender`, opened when it is new."""
        self._close_former(sender)
        link = LinkKey(sender, self._me, self._epochs.setdefault(sender, 1))
        self._ensure(OpenLink(link, LinkRole.RECEIVER, self.store_address, sender_ranks))
        return link

    def to_send(self, link: LinkKey, store_address: str, receiver_ranks: int) -> None:
        """Open the link that a grant names; older epochs of the same pair are closed."""
        self._close_former(link.receiver)
        for old in [known for known in self._open if known.epoch < link.epoch and known.receiver == link.receiver]:
            self.condemn(old, "superseded")
        self._ensure(OpenLink(link, LinkRole.SENDER, store_address, receiver_ranks))

    def is_open(self, link: LinkKey) -> bool:
        """The link may be used."""
        return link in self._open

    def condemn(self, link: LinkKey, reason: str) -> None:
        """Close a link; the next grant of the pair uses the next epoch."""
        if self._open.pop(link, None) is not None:
            self._out.actions.append(CloseLink(link, reason))
            self._out.counts[f"link_condemned/{reason}"] += 1
        self._wrong.pop(link, None)
        self._bump(link)

    def checked(self, link: LinkKey, right: bool) -> None:
        """A part's checksum was right or wrong; a link that is wrong again and again is condemned."""
        self._wrong[link] = 0 if right else self._wrong.get(link, 0) + 1
        if self._wrong[link] >= self._quarantine_after:
            self.condemn(link, "checksum")
        elif right:
            del self._wrong[link]

    def lost(self, link: LinkKey) -> None:
        """The shell reported a link gone."""
        self._open.pop(link, None)
        self._wrong.pop(link, None)
        self._bump(link)

    def peer_lost(self, peer: WorkerRef) -> None:
        """Close every link with a dead process and forget its epochs."""
        for link in [known for known in self._open if peer in (known.sender, known.receiver)]:
            del self._open[link]
            self._wrong.pop(link, None)
            self._out.actions.append(CloseLink(link, "peer_lost"))
        self._epochs.pop(peer, None)

    def _close_former(self, peer: WorkerRef) -> None:
        """A peer speaks: earlier processes of its name are dead, however quietly they went."""
        known = self._newest.get(peer.worker_id)
        self._newest[peer.worker_id] = peer.incarnation
        if known is None or known == peer.incarnation:  # of a name that never spoke nothing is here
            return
        ends = [end for link in self._open for end in (link.sender, link.receiver)]
        for former in dict.fromkeys([*ends, *self._epochs]):
            if former.worker_id == peer.worker_id and former.incarnation != peer.incarnation:
                self.peer_lost(former)

    def _ensure(self, wanted: OpenLink) -> None:
        if wanted.link not in self._open:
            self._open[wanted.link] = wanted.role
            self._out.actions.append(wanted)

    def _bump(self, link: LinkKey) -> None:
        if link.receiver == self._me and self._epochs.get(link.sender) == link.epoch:
            self._epochs[link.sender] = link.epoch + 1

    def state(self) -> object:
        """Epochs and open links."""
        return {
            "epochs": [[ref.worker_id, ref.incarnation, epoch] for ref, epoch in self._epochs.items()],
            "open": [[link.name, role] for link, role in self._open.items()],
            "wrong": [[link.name, count] for link, count in self._wrong.items()],
        }
