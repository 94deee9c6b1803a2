"""Buffers and pools: what is asked for is given, or refused by name; what is given back is there again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

from thaloom.base.errors import OutOfMemory
from thaloom.hal import driver
from thaloom.hal.checks import MemoryWeights
from thaloom.hal.driver import MovesBlocks
from thaloom.hal.testing.bench import LIMITS, NUM_BLOCKS, bench, expect_close, right, sequences_for
from thaloom.hal.testing.programs import tiny_model
from thaloom.hal.testing.schedules import make_step, together
from thaloom.hal.testing.suite import Nonconforming, Subject, check, expect

MIB = 1 << 20
MAX_GROWTH_BYTES = 256 * MIB
"""Of address space: a thread's arena may take 64 MiB of it without any memory behind; a leak takes much more."""


@check("memory.gives_what_is_asked")
def gives_what_is_asked(subject: Subject) -> None:
    backend = subject.open()
    for num_bytes in (1, 4096, MIB + 1):
        buffer = backend.allocate(num_bytes)
        expect(buffer.num_bytes == num_bytes, f"asked for {num_bytes} bytes, the buffer says {buffer.num_bytes}")
        buffer.free()


@check("memory.begins_aligned")
def begins_aligned(subject: Subject) -> None:
    backend = subject.open()
    buffers = [backend.allocate(num_bytes) for num_bytes in (1, 300, MIB + 1)]
    for buffer in buffers:
        seen = getattr(getattr(buffer, "data", None), "ctypes", None)
        if seen is not None:  # else only the driver knows where it lies
            begin = seen.data
            expect(begin % driver.ALIGNMENT == 0, f"a buffer begins at {begin}, no multiple of {driver.ALIGNMENT}")
        buffer.free()


@check("memory.free_twice_is_harmless")
def free_twice_is_harmless(subject: Subject) -> None:
    backend = subject.open()
    first = backend.allocate(MIB)
    first.free()
    second = backend.allocate(MIB)
    first.free()
    third = backend.allocate(MIB)
    second.free()
    third.free()


@check("memory.comes_back")
def comes_back(subject: Subject) -> None:
    backend = subject.open()
    backend.allocate(MIB).free()
    before = _taken_bytes(subject)
    for _ in range(1000):
        backend.allocate(MIB).free()
    growth = _taken_bytes(subject) - before
    expect(growth < MAX_GROWTH_BYTES, f"1,000 times allocating and freeing 1 MiB leaves {growth >> 20} MiB")


@check("memory.too_much_is_refused")
def too_much_is_refused(subject: Subject) -> None:
    backend, device = subject.open(), subject.device()
    try:
        backend.allocate(2 * device.memory_bytes + 1)
    except OutOfMemory as error:
        expect("needed_bytes" in error.details, "the refusal does not say how much was needed")
    else:
        raise Nonconforming("twice the device's memory was given away")
    backend.allocate(MIB).free()


@check("memory.sizes_are_stated")
def sizes_are_stated(subject: Subject) -> None:
    case = tiny_model(1)
    least = 16 * 2 * case.program.kv_values_per_token()
    with bench(subject.open(), case) as made:
        executable = made.executable
        expect(executable.block_bytes >= least, f"16 tokens in {executable.block_bytes} bytes; at least {least}")
        expect(executable.weight_bytes > 0, "weights take no memory")
        expect(executable.scratch_bytes >= 0, "scratch is negative")


@check("memory.too_small_a_pool_is_refused")
def too_small_a_pool_is_refused(subject: Subject) -> None:
    case, backend = tiny_model(1), subject.open()
    executable = backend.compile(case.program, MemoryWeights(case.weights), LIMITS)
    pool = backend.allocate(3 * executable.block_bytes)
    try:
        executable.bind_pool(pool, 4)
    except ValueError:
        return
    finally:
        executable.close()
        pool.free()
    raise Nonconforming("a pool of 3 blocks was taken for one of 4")


@check("memory.running_without_a_pool_is_refused")
def running_without_a_pool_is_refused(subject: Subject) -> None:
    case = tiny_model(1)
    executable = subject.open().compile(case.program, MemoryWeights(case.weights), LIMITS)
    sequences = sequences_for(case)
    try:
        executable.run(make_step(sequences, together(sequences)[0]))
    except ValueError:
        return
    finally:
        executable.close()
    raise Nonconforming("ran without a pool")


@check("memory.close_gives_back")
def close_gives_back(subject: Subject) -> None:
    backend, case = subject.open(), tiny_model(2)
    with bench(backend, case):
        pass
    before = _taken_bytes(subject)
    for _ in range(50):
        with bench(backend, case, num_blocks=1024):
            pass
    growth = _taken_bytes(subject) - before
    expect(growth < MAX_GROWTH_BYTES, f"50 times compiling and closing leaves {growth >> 20} MiB")


@check("memory.close_twice_is_harmless")
def close_twice_is_harmless(subject: Subject) -> None:
    case = tiny_model(1)
    executable = subject.open().compile(case.program, MemoryWeights(case.weights), LIMITS)
    executable.close()
    executable.close()


@check("memory.blocks_can_be_copied")
def blocks_can_be_copied(subject: Subject) -> None:
    """A sequence goes on from copies of its blocks, while the originals are written over."""
    case = tiny_model(3)
    sequences = sequences_for(case, lengths=(40,))
    wanted = right(case, sequences)
    table = sequences[0].table.copy()
    with bench(subject.open(), case) as made:
        made.play(sequences, [[(0, 0, 35)]])
        free = [block for block in range(NUM_BLOCKS) if block not in table]
        for index, target in enumerate(free[: len(table)]):
            made.executable.copy_block(int(table[index]), target)
            sequences[0].table[index] = target
        spoilers = sequences_for(case, seed=9, lengths=(40,))
        spoilers[0].table[:] = table
        made.play(spoilers, together(spoilers))
        found = made.play(sequences, [[(0, 35, 40)]])
    expect_close(case, found, [wanted[0][35:]])


@check("memory.blocks_leave_and_come_back", "moves")
def blocks_leave_and_come_back(subject: Subject) -> None:
    """A sequence goes on from blocks that were taken out and put back elsewhere, as if they had never left."""
    for kv_dtype in sorted(subject.support().kv_dtypes):
        case = tiny_model(3, kv_dtype=kv_dtype)
        sequences = sequences_for(case, lengths=(40,))
        table = sequences[0].table
        before = table.copy()
        with bench(subject.open(), case) as made:
            mover = cast(MovesBlocks, made.executable)
            size = made.executable.block_bytes
            made.play(sequences, [[(0, 0, 35)]])
            kept = [_taken_out(mover, int(block), size) for block in before]
            spoilers = sequences_for(case, seed=9, lengths=(40,))
            spoilers[0].table[:] = before
            made.play(spoilers, together(spoilers))
            free = [block for block in range(NUM_BLOCKS) if block not in before]
            for index, data in enumerate(kept):
                table[index] = free[index]
                mover.write_block(free[index], memoryview(data))
                expect(_taken_out(mover, free[index], size) == data, "what was put back is not what was taken out")
            found = made.play(sequences, [[(0, 35, 40)]])
        expect_close(case, found, [right(case, sequences)[0][35:]])


@check("memory.moving_outside_the_pool_is_refused", "moves")
def moving_outside_the_pool_is_refused(subject: Subject) -> None:
    with bench(subject.open(), tiny_model(1)) as made:
        mover, size = cast(MovesBlocks, made.executable), made.executable.block_bytes
        for block, num_bytes in ((NUM_BLOCKS, size), (-1, size), (0, size - 1), (0, size + 1)):
            for move in (mover.read_block, mover.write_block):
                try:
                    move(block, memoryview(bytearray(num_bytes)))
                except ValueError:
                    continue
                raise Nonconforming(f"block {block} of {NUM_BLOCKS} was moved as {num_bytes} bytes of {size}")


@check("memory.elastic_takes_what_it_is_resized_to", "elastic")
def elastic_takes_what_it_is_resized_to(subject: Subject) -> None:
    """Addresses cost nothing; memory is the device's, is refused by name beyond what there is, and comes back."""
    backend, device = subject.reserves(), subject.device()
    buffer, other = backend.reserve(device.memory_bytes), backend.reserve(device.memory_bytes)
    expect(buffer.num_bytes == 0, f"{buffer.num_bytes} bytes have memory before anybody asked")
    expect(buffer.capacity_bytes == device.memory_bytes, f"addresses for {buffer.capacity_bytes} bytes")
    buffer.resize(buffer.page_bytes + 1)
    expect(buffer.num_bytes == 2 * buffer.page_bytes, f"a page and a byte have become {buffer.num_bytes} bytes")
    half = device.memory_bytes // 2 // buffer.page_bytes * buffer.page_bytes
    buffer.resize(half)
    try:
        other.resize(device.memory_bytes - half + 1)
    except OutOfMemory as error:
        expect("needed_bytes" in error.details, "the refusal does not say how much was needed")
    else:
        raise Nonconforming("two buffers have the same memory")
    expect(other.num_bytes == 0, "what was refused was taken all the same")
    buffer.resize(0)
    other.resize(device.memory_bytes - half + 1)
    for one in (buffer, other, buffer):
        one.free()
    backend.reserve(device.memory_bytes).free()


@check("memory.elastic_pool_grows_and_shrinks", "elastic")
def elastic_pool_grows_and_shrinks(subject: Subject) -> None:
    """A sequence whose blocks moved from the end of the pool to its beginning goes on while the end goes and comes."""
    case = tiny_model(3)
    sequences = sequences_for(case, lengths=(40,))
    wanted = right(case, sequences)
    table = sequences[0].table
    with bench(subject.open(), case) as made:
        block_bytes = made.executable.block_bytes
        elastic = subject.reserves().reserve(1)
        num_blocks = 4 * elastic.page_bytes // block_bytes
        elastic.free()
        elastic = subject.reserves().reserve(num_blocks * block_bytes)
        made.executable.bind_pool(elastic, num_blocks)
        elastic.resize(elastic.capacity_bytes)
        table[:] = range(num_blocks - len(table), num_blocks)
        made.play(sequences, [[(0, 0, 35)]])
        for place, block in enumerate(table):
            made.executable.copy_block(int(block), place)
        table[:] = range(len(table))
        elastic.resize(len(table) * block_bytes)
        expect(elastic.num_bytes < elastic.capacity_bytes, f"all {elastic.capacity_bytes} bytes still have memory")
        elastic.resize(elastic.capacity_bytes)
        found = made.play(sequences, [[(0, 35, 40)]])
    elastic.free()
    expect_close(case, found, [wanted[0][35:]])


@check("memory.copying_outside_the_pool_is_refused")
def copying_outside_the_pool_is_refused(subject: Subject) -> None:
    with bench(subject.open(), tiny_model(1)) as made:
        for source, target in ((NUM_BLOCKS, 0), (0, NUM_BLOCKS), (-1, 0), (0, -1)):
            try:
                made.executable.copy_block(source, target)
            except ValueError:
                continue
            raise Nonconforming(f"copied block {source} to {target} in a pool of {NUM_BLOCKS}")


def _taken_out(mover: MovesBlocks, block: int, num_bytes: int) -> bytearray:
    data = bytearray(num_bytes)
    mover.read_block(block, memoryview(data))
    return data


def _taken_bytes(subject: Subject) -> int:
    """Address space of this process, and what a device with memory of its own says is in use."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    own = 0
    if subject.device().kind != "cpu":
        own = subject.driver.read(subject.device_id).memory_used_bytes or 0
    return pages * os.sysconf("SC_PAGE_SIZE") + own
