"""The daemon's part of lending: what is booked is lent no more, and what is lent is still free."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.unit.init.test_node_memory import CPU, GIB, device
from thaloom.base.errors import OutOfMemory
from thaloom.base.ids import WorkerId
from thaloom.base.units import MIB
from thaloom.init.memory import lending
from thaloom.init.memory.admission import Estimate
from thaloom.init.memory.lending import Lending, pages_for
from thaloom.init.memory.node_memory import NodeMemory
from thaloom.kernel.memory.board import PAGE_BYTES, Board

W1, W2 = WorkerId("w-1"), WorkerId("w-2")
CAPACITY = 200 * MIB


@pytest.fixture
def node(tmp_path: Path) -> NodeMemory:
    memory = NodeMemory(
        [device(CPU, "cpu")],
        host_total_bytes=CAPACITY,
        host_available=lambda: GIB,
        readings=dict,
        headroom_bytes=0,
    )
    memory.lending = Lending(tmp_path / "pages", CPU)
    memory.settle([])
    return memory


@pytest.fixture
def board(node: NodeMemory) -> Iterator[Board]:
    assert node.lending is not None
    opened = Board.open(node.lending.path)
    yield opened
    opened.check()
    opened.close()


def wanted(kv_bytes: int, others: int = 0) -> Estimate:
    return Estimate(
        weight_bytes=others, kv_bytes=kv_bytes, scratch_bytes=0, process_bytes=0, context_length=1, kv_ceiling_bytes=GIB
    )


def admit(node: NodeMemory, worker: WorkerId, estimate: Estimate, *, lends: bool = True) -> None:
    asyncio.run(node.admit(worker, CPU, estimate, lends=lends))


def test_all_that_nobody_has_booked_is_lent(node: NodeMemory, board: Board) -> None:
    assert board.look().num_pages == CAPACITY // PAGE_BYTES
    admit(node, W1, wanted(10 * MIB, others=30 * MIB))
    pool = board.look()
    assert pool.goal == (CAPACITY - 40 * MIB) // PAGE_BYTES + pages_for(10 * MIB)
    node.settle([])
    assert board.look().goal == pool.goal
    seat = board.join(W1, floor=pages_for(10 * MIB) - 1)
    node.settle([])
    assert board.look().goal == pool.goal - 1
    seat.leave()
    node.release(W1)
    node.settle([])
    assert board.look().num_pages == CAPACITY // PAGE_BYTES


def test_what_is_lent_is_free_all_the_same(node: NodeMemory, board: Board) -> None:
    admit(node, W1, wanted(10 * MIB))
    before = node.free_bytes([])[CPU]
    seat = board.join(W1, floor=5)
    assert seat.take(50) == 50
    assert node.free_bytes([])[CPU] == before
    assert node.lending is not None
    assert node.lending.lent_bytes() == {W1: 45 * PAGE_BYTES}


def test_lent_memory_in_use_is_not_taken_for_a_strangers(tmp_path: Path) -> None:
    available = 150 * MIB
    memory = NodeMemory(
        [device(CPU, "cpu")],
        host_total_bytes=CAPACITY,
        host_available=lambda: available,
        readings=dict,
        headroom_bytes=0,
    )
    memory.lending = Lending(tmp_path / "pages", CPU)
    memory.settle([])
    admit(memory, W1, wanted(10 * MIB))
    opened = Board.open(tmp_path / "pages")
    seat = opened.join(W1, floor=5)
    assert seat.take(5) + seat.take(25) == 30
    memory.others = lambda: {W1: 60 * MIB}  # all of it was written to
    available -= 60 * MIB
    assert memory.free_bytes([])[CPU] == 140 * MIB
    opened.close()


def test_who_books_waits_for_what_is_lent(node: NodeMemory, board: Board) -> None:
    """And is refused, by name of the keeper, if it does not come."""

    async def story(gives_back: bool) -> None:
        booked = asyncio.create_task(node.admit(W2, CPU, wanted(0, others=120 * MIB), lends=False))
        await asyncio.sleep(0.02)
        assert not booked.done()
        assert seat.target() < seat.held()
        if gives_back:
            seat.give(seat.held() - seat.target())
        await booked

    admit(node, W1, wanted(10 * MIB))
    seat = board.join(W1, floor=5)
    assert seat.take(90) == 90
    monkey = pytest.MonkeyPatch()
    monkey.setattr(lending, "RETURN_S", 0.1)
    with pytest.raises(OutOfMemory, match="w-1") as refusal:
        asyncio.run(story(gives_back=False))
    assert refusal.value.details["holders"] == {W1: (90 - seat.target()) * PAGE_BYTES}
    assert node.held_bytes([W2], CPU) == 0
    node.settle([])
    assert seat.target() == seat.held()
    asyncio.run(story(gives_back=True))
    assert node.held_bytes([W2], CPU) == 120 * MIB
    monkey.undo()


def test_a_worker_that_ended_lends_nothing_any_more(node: NodeMemory, board: Board) -> None:
    admit(node, W1, wanted(10 * MIB))
    board.join(W1, floor=5).leave()
    node.release(W1)
    assert node.lending is not None
    assert node.lending.lent_bytes() == {}


def test_memory_that_strangers_took_is_lent_no_more(tmp_path: Path) -> None:
    available = GIB
    memory = NodeMemory(
        [device(CPU, "cpu")],
        host_total_bytes=CAPACITY,
        host_available=lambda: available,
        readings=dict,
        headroom_bytes=0,
    )
    memory.lending = Lending(tmp_path / "pages", CPU)
    for left in (GIB, 50 * MIB, 0):
        available = left
        memory.settle([])
        opened = Board.open(tmp_path / "pages")
        assert opened.look().num_pages == min(left, CAPACITY) // PAGE_BYTES
        opened.close()


def test_a_damaged_board_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "pages"
    path.write_bytes(b"nonsense" * 4000)
    made = Lending(path, CPU)
    made.settle({}, 10 * PAGE_BYTES)
    made.check()
    assert Board.open(path).look().num_pages == 10


def test_while_somebody_is_stopped_in_its_turn_nothing_is_taken_for_returned(node: NodeMemory, board: Board) -> None:
    admit(node, W1, wanted(10 * MIB))
    seat = board.join(W1, floor=5)
    assert seat.take(90) == 90
    node.settle([])
    monkey = pytest.MonkeyPatch()
    monkey.setattr(lending, "RETURN_S", 0.1)
    with board._books, pytest.raises(OutOfMemory, match="w-2"):  # its turn, and it does not end
        admit(node, W2, wanted(0, others=120 * MIB), lends=False)
    assert node.held_bytes([W2], CPU) == 0
    node.settle([])
    assert seat.target() == 90
    monkey.undo()


def test_who_is_loading_when_a_daemon_comes_is_booked_and_lends_nothing(node: NodeMemory, board: Board) -> None:
    node.expect(W1, CPU, wanted(10 * MIB, others=300 * MIB), lends=True)
    node.settle([])
    assert board.look().num_pages == pages_for(10 * MIB)
    assert node.free_bytes([])[CPU] == CAPACITY - 310 * MIB
    node.release(W1)
    node.settle([])
    assert board.look().num_pages == CAPACITY // PAGE_BYTES


class Idle:
    """Shared memory that nobody uses, and that goes when it is asked for."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes

    def held(self) -> Mapping[str, tuple[int, frozenset[WorkerId]]]:
        return {}

    def idle_bytes(self) -> int:
        return self.num_bytes

    def make_room(self, needed_bytes: int) -> int:
        gone, self.num_bytes = (self.num_bytes, 0) if needed_bytes else (0, self.num_bytes)
        return gone


def test_what_was_idle_and_went_for_a_booking_is_not_asked_back_from_others(tmp_path: Path) -> None:
    memory = NodeMemory(
        [device(CPU, "cpu")],
        host_total_bytes=CAPACITY,
        host_available=lambda: 100 * MIB,
        readings=dict,
        headroom_bytes=0,
    )
    memory.sharing = Idle(60 * MIB)
    memory.lending = Lending(tmp_path / "pages", CPU)
    memory.settle([])
    board = Board.open(tmp_path / "pages")
    before = board.look().goal
    admit(memory, W1, wanted(0, others=120 * MIB), lends=False)
    assert board.look().goal == before - (120 - 60) * MIB // PAGE_BYTES
    board.close()
