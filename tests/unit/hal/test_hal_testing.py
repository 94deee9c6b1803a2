"""The kit's own machinery: reports, choosing, skipping, schedules, the command line."""

from __future__ import annotations

import json
import socket

import numpy as np
import pytest

from thaloom.base.ids import DeviceId
from thaloom.hal.drivers.virtual import DRIVER
from thaloom.hal.drivers.virtual.driver import VirtualDevice, VirtualDriver
from thaloom.hal.ops import VERSION
from thaloom.hal.testing import all_checks, run_conformance
from thaloom.hal.testing.__main__ import main
from thaloom.hal.testing.bench import expect_close, expect_same
from thaloom.hal.testing.programs import operator_cases, operator_names, tiny_model
from thaloom.hal.testing.report import Report, Result
from thaloom.hal.testing.schedules import chopped, make_sequences, make_step, moved, together
from thaloom.hal.testing.suite import Nonconforming, check
from thaloom.hal.testing.watch import watching

ID = DeviceId("virtual:0")


def report(*statuses: str) -> Report:
    results = tuple(Result(id=f"x.{n}", status=status, detail="d") for n, status in enumerate(statuses))  # type: ignore[arg-type]
    return Report(driver="virtual", device=ID, operators_version=VERSION, results=results)


class TestReport:
    def test_one_failure_fails(self) -> None:
        found = report("pass", "fail", "not_advertised")
        assert not found.passed
        assert found.counts() == {"pass": 1, "fail": 1, "not_advertised": 1}
        assert [result.id for result in found.failures()] == ["x.1"]

    def test_nothing_checked_is_not_passed(self) -> None:
        assert not report().passed
        assert report("pass").passed

    def test_is_json_and_text(self) -> None:
        found = report("pass", "fail")
        assert json.loads(json.dumps(found.to_dict()))["counts"]["fail"] == 1
        assert "fail           x.1: d" in str(found)
        assert str(found).endswith("1 passed, 1 failed, 0 not advertised")


class TestRunning:
    def test_only_chosen_checks(self) -> None:
        found = run_conformance(VirtualDriver([VirtualDevice(id=ID)]), ID, only=["probe.", "manifest.abi"])
        assert found.passed
        assert {result.id.partition(".")[0] for result in found.results} == {"probe", "manifest"}

    def test_skips_name_the_missing_claim(self) -> None:
        driver = VirtualDriver([VirtualDevice(id=ID, level="L1")])
        found = run_conformance(driver, ID, only=["exact.repeated", "manifest.kind"])
        assert {result.detail for result in found.results} == {
            "the driver does not claim exact",
            "the driver does not claim manifest",
        }

    def test_device_that_is_not_there_fails_every_check_that_needs_it(self) -> None:
        found = run_conformance(VirtualDriver(), ID, only=["probe.lists", "execute.whole_models", "exact.repeated"])
        assert len(found.failures()) == len(found.results)

    def test_ids_are_unique(self) -> None:
        taken = all_checks()[0].id
        with pytest.raises(ValueError, match="two checks"):
            check(taken)(lambda subject: None)


class TestSchedules:
    def test_a_chopped_schedule_covers_every_row_once_in_order(self) -> None:
        sequences = make_sequences([1, 9, 40], np.random.default_rng(1), vocab_size=5, num_blocks=8)
        for seed in range(20):
            done = [0, 0, 0]
            for step in chopped(sequences, np.random.default_rng(seed)):
                assert [chunk[0] for chunk in step] == sorted({chunk[0] for chunk in step})
                for index, start, stop in step:
                    assert start == done[index] < stop
                    done[index] = stop
            assert done == [1, 9, 40]

    def test_a_pool_that_is_too_small(self) -> None:
        with pytest.raises(ValueError, match="the pool has 1"):
            make_sequences([17], np.random.default_rng(1), vocab_size=5, num_blocks=1)

    def test_moving_keeps_tokens(self) -> None:
        sequences = make_sequences([20, 3], np.random.default_rng(1), vocab_size=5, num_blocks=30, adapters=(0, 1))
        elsewhere = moved(sequences, np.random.default_rng(2), 30)
        for before, after in zip(sequences, elsewhere, strict=True):
            assert np.array_equal(before.tokens, after.tokens)
            assert before.adapter == after.adapter
        assert any(not np.array_equal(a.table, b.table) for a, b in zip(sequences, elsewhere, strict=True))

    def test_steps_name_only_blocks_that_are_reached(self) -> None:
        sequences = make_sequences([40], np.random.default_rng(1), vocab_size=5, num_blocks=8)
        step = make_step(sequences, [(0, 10, 17)])
        assert (step.block_tables >= 0).tolist() == [[True, True, False]]
        assert together(sequences) == [[(0, 0, 40)]]


class TestComparing:
    def test_not_a_number_is_never_close(self) -> None:
        case = tiny_model(0)
        with pytest.raises(Nonconforming, match="differs"):
            expect_close(case, [np.full((1, 2), np.nan, np.float32)], [np.zeros((1, 2), np.float32)])

    def test_shapes_must_agree(self) -> None:
        case = tiny_model(0)
        with pytest.raises(Nonconforming, match="shape"):
            expect_close(case, [np.zeros((1, 2), np.float32)], [np.zeros((2, 2), np.float32)])

    def test_same_is_to_the_last_bit(self) -> None:
        case, one = tiny_model(0), np.ones((1, 2), np.float32)
        expect_same(case, [one], [one.copy()], "luck")
        with pytest.raises(Nonconforming, match="luck"):
            expect_same(case, [np.nextafter(one, 2)], [one], "luck")


def test_cases_are_the_same_each_time() -> None:
    for operator in operator_names():
        for first, second in zip(operator_cases(operator), operator_cases(operator), strict=True):
            assert first.program == second.program
            assert all(np.array_equal(first.weights[name].data, second.weights[name].data) for name in first.weights)


def test_watching_sees_only_its_own_block() -> None:
    def touch() -> None:
        with socket.socket() as probe:
            probe.settimeout(0.01)
            probe.connect_ex(("127.0.0.1", 9))

    touch()
    with watching() as watched:
        touch()
    touch()
    assert len(watched.network()) == 1
    assert not watched.processes()


class TestCommandLine:
    def test_unknown_driver(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["abacus", "abacus:0"]) == 2
        assert "abacus" in capsys.readouterr().err

    def test_unknown_device(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["cpu", "cpu:99"]) == 2
        assert "cpu:99" in capsys.readouterr().err

    def test_json(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("THALOOM_VIRTUAL_DEVICES", '[{"id": "virtual:0"}]')
        assert main(["virtual", "virtual:0", "--json", "--only", "manifest."]) == 0
        assert json.loads(capsys.readouterr().out)["passed"] is True

    def test_failing(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("THALOOM_VIRTUAL_DEVICES", '[{"id": "a device"}]')
        assert main(["virtual", "a device", "--only", "inventory.id"]) == 1
        assert "cannot be typed" in capsys.readouterr().out

    def test_manifest_names_this_driver(self) -> None:
        assert DRIVER.manifest.name == VirtualDriver.name
