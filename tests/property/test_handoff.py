"""Whatever happens between two workers, every block comes back and no token is wrong, missing or doubled."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.core.actions import Cancel, Drain, FrontDoorLost, RequestOutput, Submit
from services.core.request import Discipline, FinishReason, Request, WorkerRef
from services.kvcache.transfer_table import RECEIVER, SENDER, TERMINAL, Input, TransferState
from tests.factories import make_core, make_request
from tests.world import MS, World, token_at

P, D = WorkerRef("prefill-0", 1), WorkerRef("decode-0", 2)
S = 1000 * MS

FAULTS = st.sampled_from(["none", "link", "checksum", "cancel", "kill_p", "kill_d", "front_door", "pause", "checksum"])


def build(draw_delay: st.DataObject, blocks: int = 24) -> World:
    world = World(lambda: draw_delay.draw(st.integers(0, 20)) * MS)
    world.add(P, make_core(P, ("prefill",), blocks, scheduler={"max_batch_tokens": 8}))
    world.add(D, make_core(D, ("decode",), blocks))
    return world


def outputs_of(world: World, request: Request) -> list[RequestOutput]:
    return [output for _, output in world.outputs if output.request_id == request.request_id]


def expected(request: Request) -> list[int]:
    start = len(request.prompt)
    return [token_at(request.request_id, start + i) for i in range(request.sampling.max_tokens)]


def assert_clean(world: World) -> None:
    for core in world.cores.values():
        load = core.load()
        assert (load.kv_blocks_used, load.leases, load.transfers, load.tasks) == (0, 0, 0, 0), load


@given(st.data())
def test_random_faults_leave_nothing_behind(data: st.DataObject) -> None:
    world = build(data)
    requests: list[Request] = []
    for number in range(data.draw(st.integers(1, 6))):
        size = data.draw(st.integers(1, 40))
        request = make_request(
            f"r{number}",
            tuple(data.draw(st.integers(0, 1)) for _ in range(size)),
            max_tokens=data.draw(st.integers(1, 6)),
            handoff_to=D,
            discipline=data.draw(st.sampled_from(list(Discipline))),
        )
        requests.append(request)
        world.feed(P, Submit("door", request))
        world.run(world.now + data.draw(st.integers(0, 60)) * MS)
        fault = data.draw(FAULTS)
        if fault == "link" and world.links:
            world.break_link(data.draw(st.sampled_from(world.links)))
        elif fault == "checksum":
            world.fail_next_part = "checksum"
        elif fault == "cancel":
            for ref in (P, D):
                world.feed(ref, Cancel("door", request.request_id, FinishReason.CANCELLED, "client"))
        elif fault in ("kill_p", "kill_d"):
            ref = P if fault == "kill_p" else D
            if ref in world.cores:
                world.kill(ref)
        elif fault == "front_door":
            for ref in (P, D):
                world.feed(ref, FrontDoorLost("w", "door"))
        elif fault == "pause":
            world.run(world.now + 7 * S)
    world.run(world.now + 60 * S)
    assert_clean(world)
    for request in requests:
        tokens = [token for output in outputs_of(world, request) for token in output.token_ids]
        indices = [output.index + i for output in outputs_of(world, request) for i in range(len(output.token_ids))]
        assert tokens == expected(request)[: len(tokens)], "a prefix of the right tokens, in order"
        assert indices == list(range(len(indices))), "every index once"
        # A decode worker that finished and died before its commit arrived leaves a second end, from prefill; the
        # request flow takes the first end and drops the other.
        ends = [ref for ref, output in world.outputs if output.request_id == request.request_id and output.finish]
        assert len(ends) == len(set(ends)), "one end from each worker at most"


@given(st.data(), st.sampled_from(list(Discipline)))
def test_without_faults_everything_completes(data: st.DataObject, discipline: Discipline) -> None:
    world = build(data)
    requests = []
    for number in range(data.draw(st.integers(1, 8))):
        prompt = tuple(data.draw(st.integers(0, 1)) for _ in range(data.draw(st.integers(1, 40))))
        requests.append(make_request(f"r{number}", prompt, max_tokens=5, handoff_to=D, discipline=discipline))
        world.feed(P, Submit("door", requests[-1]))
    world.run(60 * S)
    assert_clean(world)
    for request in requests:
        got = outputs_of(world, request)
        assert [token for output in got for token in output.token_ids] == expected(request)
        assert [output.finish for output in got][-1] is FinishReason.LENGTH


def run_one(
    discipline: Discipline, prompt: tuple[int, ...] = tuple(range(20)), lose: bool = False, **fields: object
) -> World:
    world = World(lambda: MS)
    world.lose_next_part = lose
    world.add(P, make_core(P, ("prefill",), scheduler={"max_batch_tokens": 8}))
    world.add(D, make_core(D, ("decode",)))
    world.feed(P, Submit("door", make_request("r", prompt, handoff_to=D, discipline=discipline, **fields)))
    world.run(10 * S)
    return world


def test_an_early_grant_sends_chunks_while_later_ones_are_computed() -> None:
    late, early = (run_one(discipline, tuple(range(40))) for discipline in (Discipline.LATE, Discipline.EARLY))
    assert late.seen_parts == [("r/1", 1, 0)]
    assert len(early.seen_parts) == 4, "the grant came during the second of five chunks"
    assert_clean(early)


def test_bytes_that_are_lost_are_sent_anew_though_their_part_was_posted_with_a_step() -> None:
    for tokens in (8, 16, 20, 24, 40):
        for discipline in Discipline:
            world = run_one(discipline, tuple(range(tokens)), lose=True)
            got = [token for _, output in world.outputs for token in output.token_ids]
            assert got == [token_at("r", tokens + i) for i in range(4)], (tokens, discipline)
            assert_clean(world)


def test_blocks_that_the_receiver_has_are_not_sent_again() -> None:
    world = run_one(Discipline.LATE)
    world.feed(P, Submit("door", make_request("again", tuple(range(20)), handoff_to=D)))
    world.run(20 * S)
    assert world.seen_parts == [("r/1", 1, 0)], "the second hand-off had nothing to send"
    tokens = [t for _, out in world.outputs if out.request_id == "again" for t in out.token_ids]
    assert tokens == [token_at("again", 20 + i) for i in range(4)]
    assert_clean(world)


def test_a_request_that_ends_at_its_first_token_is_not_handed_off() -> None:
    for discipline in Discipline:
        world = run_one(discipline, max_tokens=1)
        assert [output.finish for _, output in world.outputs] == [FinishReason.LENGTH]
        assert_clean(world)


def test_a_checksum_mismatch_is_sent_again_and_a_second_one_fails_cleanly() -> None:
    for failures, finish in ((1, FinishReason.LENGTH), (2, FinishReason.ERROR)):
        world = World(lambda: MS)
        world.add(P, make_core(P, ("prefill",)))
        world.add(D, make_core(D, ("decode",)))
        world.feed(P, Submit("door", make_request("r", tuple(range(9)), handoff_to=D)))
        for _ in range(failures):
            world.fail_next_part = "checksum"
            seen = len(world.seen_parts)
            while len(world.seen_parts) == seen:
                world.run(world.now + MS)
        world.run(world.now + 20 * S)
        assert [output.finish for _, output in world.outputs][-1] is finish
        assert_clean(world)


def test_a_link_that_is_wrong_twice_in_a_row_is_rebuilt_under_a_new_epoch() -> None:
    world = World(lambda: MS)
    world.add(P, make_core(P, ("prefill",)))
    world.add(D, make_core(D, ("decode",)))
    for number, failures in enumerate((2, 0)):
        world.feed(P, Submit("door", make_request(f"r{number}", (number,) * 9, handoff_to=D)))
        for _ in range(failures):
            world.fail_next_part = "checksum"
            seen = len(world.seen_parts)
            while len(world.seen_parts) == seen:
                world.run(world.now + MS)
        world.run(world.now + 20 * S)
    first, second = (outputs_of(world, make_request(f"r{number}"))[-1].finish for number in range(2))
    assert (first, second) == (FinishReason.ERROR, FinishReason.LENGTH)
    assert world.cores[D].counters()["link_condemned/checksum"] == 1
    assert world.cores[P].counters()["handoff_retried/checksum"] == 1
    # The sender may hear of the closed link before the receiver's word on the checksum.
    assert sum(count for name, count in world.cores[P].counters().items() if name.startswith("handoff_failed/")) == 1
    assert_clean(world)


def test_a_draining_worker_takes_nothing_new() -> None:
    world = World(lambda: MS)
    world.add(P, make_core(P, ("prefill", "decode")))
    world.feed(P, Drain("test"))
    world.feed(P, Submit("door", make_request("r")))
    assert [(output.finish, output.reason) for _, output in world.outputs] == [(FinishReason.ERROR, "DRAINING")]


def test_a_deadline_ends_a_request_wherever_it_is() -> None:
    for deadline_ms in range(1, 60, 3):
        world = World(lambda: 3 * MS)
        world.add(P, make_core(P, ("prefill",), scheduler={"max_batch_tokens": 8}))
        world.add(D, make_core(D, ("decode",)))
        request = make_request("r", tuple(range(20)), handoff_to=D, max_tokens=50, deadline_unix_ms=deadline_ms)
        world.feed(P, Submit("door", request))
        world.run(2 * S)
        assert_clean(world)
        assert FinishReason.DEADLINE in [output.finish for _, output in world.outputs]


def test_a_cancel_that_overtakes_its_submit_wins() -> None:
    world = World(lambda: MS)
    world.add(P, make_core(P, ("prefill", "decode")))
    world.feed(P, Cancel("door", "r", FinishReason.CANCELLED, "client"))
    world.feed(P, Submit("door", make_request("r")))
    world.run(S)
    assert world.outputs == []
    assert_clean(world)


def test_terminal_states_only_answer_and_every_live_state_can_end() -> None:
    for table in (SENDER, RECEIVER):
        for (state, _), (then, _) in table.items():
            assert state not in TERMINAL or then is state
        for state in (TransferState.OFFERED, TransferState.GRANTED, TransferState.SENDING):
            for given_input in (Input.CANCEL, Input.EXPIRE, Input.PEER_LOST, Input.ABORT, Input.FAIL):
                assert table[state, given_input][0] in TERMINAL
