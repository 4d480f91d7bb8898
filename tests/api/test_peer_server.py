"""Messages between workers over real sockets: in order, from those alone who know the secret, again after a break."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import NoReturn

import pytest

from services.core.actions import PeerMessage
from services.core.errors import ConfigError, PortBusyError
from services.core.frames import LENGTH, NONCE_BYTES, proof, unpack_frame
from services.core.peer import Ack, Offer, PeerBody, Renew
from services.core.request import Discipline, WorkerRef
from services.core.wire import PeerAddress
from services.worker import peer_calls, peer_server
from services.worker.peer_calls import PeerChannels
from services.worker.peer_server import PeerServer, pack_messages, unpack_messages
from services.worker.peers import PeerGone
from tests.factories import make_request

ME, PEER, RESTARTED = WorkerRef("prefill-0", 1), WorkerRef("decode-0", 2), WorkerRef("decode-0", 3)
OFFER = Offer("r/1", 1, make_request("r", tuple(range(512)), max_tokens=4), 512, Discipline.LATE, 7)
BODIES: tuple[PeerBody, ...] = (OFFER, Renew((("r/1", 1),)), Ack("r/1", 1))


class NoDoors:
    """No front door is expected."""

    def open(self, hello: object, connection: object) -> NoReturn:
        raise AssertionError(f"{hello} subscribed")


class End:
    """A server, what it was fed, and how its callers find it."""

    def __init__(self) -> None:
        self.fed: list[PeerMessage] = []
        self.server = PeerServer(PEER, self.fed.append, NoDoors())
        self.lookups = 0
        self.gone = ""

    async def resolve(self, to: WorkerRef) -> PeerAddress:
        self.lookups += 1
        if self.gone:
            raise PeerGone(self.gone)
        return PeerAddress(PEER, self.server.address, self.server.secret)

    async def restart(self) -> None:
        """Hang up and listen anew, as after a broken network."""
        self.server.close()
        self.server = PeerServer(PEER, self.fed.append, NoDoors())
        await self.server.start("127.0.0.1", (0, 0))


@pytest.fixture
async def end() -> AsyncIterator[End]:
    made = End()
    await made.server.start("127.0.0.1", (0, 0))
    yield made
    made.server.close()


async def test_messages_arrive_whole_and_in_order(end: End) -> None:
    channels = PeerChannels(end.resolve)
    await channels(ME, PEER, 1, BODIES)
    await channels(ME, PEER, 4, (Ack("s/1", 1),))
    assert [message.body for message in end.fed] == [*BODIES, Ack("s/1", 1)]
    assert [message.sequence for message in end.fed] == [1, 2, 3, 4]
    assert {message.source for message in end.fed} == {ME}
    assert end.lookups == 1
    channels.close()


async def test_a_message_for_an_earlier_process_is_refused(end: End) -> None:
    channels = PeerChannels(end.resolve)
    with pytest.raises(PeerGone, match="restarted"):
        await channels(ME, RESTARTED, 1, BODIES)
    channel = await channels._connect(PEER)
    assert await channel.call(pack_messages(ME, RESTARTED, 1, BODIES)) == peer_server.NOT_MINE
    assert end.fed == []
    channels.close()


async def test_a_broken_connection_is_made_anew_and_nothing_is_lost(end: End) -> None:
    channels = PeerChannels(end.resolve)
    await channels(ME, PEER, 1, (Ack("a/1", 1),))
    await end.restart()
    await channels(ME, PEER, 2, (Ack("b/1", 1),))
    assert [message.sequence for message in end.fed] == [1, 2]
    end.gone = "its process is gone"
    end.server.close()
    with pytest.raises(PeerGone, match="process is gone"):
        await channels(ME, PEER, 3, (Ack("c/1", 1),))
    channels.close()


async def test_a_peer_that_hangs_is_asked_for_again(end: End, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_calls, "ANSWER_S", 0.2)
    channels = PeerChannels(end.resolve)
    silent = socket.create_server(("127.0.0.1", 0))  # takes connections and never says a word
    working, end.server.address = end.server.address, f"127.0.0.1:{silent.getsockname()[1]}"
    call = asyncio.ensure_future(channels(ME, PEER, 1, (Ack("a/1", 1),)))
    await asyncio.sleep(0.3)
    assert not call.done() and end.fed == []
    end.server.address = working
    await call
    assert len(end.fed) == 1
    silent.close()
    channels.close()


async def hangs_up(reader: asyncio.StreamReader) -> bool:
    return await asyncio.wait_for(reader.read(1), 5) == b""


@pytest.mark.parametrize("secret", [b"", b"\0" * 32])
async def test_without_the_secret_nothing_is_taken(end: End, secret: bytes) -> None:
    host, port = end.server.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    nonce = await reader.readexactly(NONCE_BYTES)
    writer.write(proof(secret, nonce) + pack_messages(ME, PEER, 1, BODIES))
    assert await hangs_up(reader)
    assert end.fed == []
    writer.close()


@pytest.mark.parametrize(
    "frame",
    [
        LENGTH.pack(1 << 31),
        LENGTH.pack(4) + b"\x80\x05N.",  # a pickle
        LENGTH.pack(2) + b"[]",
        LENGTH.pack(13) + b"[1,2,3,[4,5]]",
        LENGTH.pack(17) + b'{"_":"Dangerous"}',
        LENGTH.pack(3) + b"\xff\xfe\xfd",
    ],
    ids=["too long", "pickle", "too few", "wrong types", "unknown type", "no text"],
)
async def test_what_is_no_frame_ends_the_connection(end: End, frame: bytes) -> None:
    host, port = end.server.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(proof(end.server.secret, await reader.readexactly(NONCE_BYTES)) + frame)
    assert await hangs_up(reader)
    assert end.fed == []
    writer.close()
    channels = PeerChannels(end.resolve)
    await channels(ME, PEER, 1, BODIES)  # others are served on
    assert len(end.fed) == 3
    channels.close()


async def test_a_caller_that_never_proves_itself_is_hung_up_on(end: End, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_server, "HANDSHAKE_S", 0.1)
    host, port = end.server.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    await reader.readexactly(NONCE_BYTES)
    assert await hangs_up(reader)
    writer.close()


async def test_a_bad_address_or_a_full_range_is_told(end: End) -> None:
    taken = int(end.server.address.split(":")[1])
    with pytest.raises(PortBusyError, match=rf"worker.peer_ports = \[{taken}, {taken}\]"):
        await PeerServer(PEER, print, NoDoors()).start("127.0.0.1", (taken, taken))
    with pytest.raises(ConfigError, match=r"worker\.host"):
        await PeerServer(PEER, print, NoDoors()).start("203.0.113.7", (0, 0))


def test_the_secret_is_not_printed() -> None:
    assert "topsecret" not in repr(PeerAddress(PEER, "127.0.0.1:1", b"topsecret"))


def test_frames_come_back_as_they_went() -> None:
    frame = pack_messages(ME, PEER, 5, BODIES)
    assert unpack_messages(unpack_frame(frame[LENGTH.size :])) == (ME, PEER, 5, BODIES)
