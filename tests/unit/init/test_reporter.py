"""What the door is told of a service that nobody serves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from thaloom.base.clock import ManualClock
from thaloom.base.ids import ServiceName
from thaloom.init.rounds.records import Records
from thaloom.init.rounds.reporter import Reporter
from thaloom.kernel.state.types import Service, ServiceSpec


def reporter(*services: Service) -> Reporter:
    nothing = SimpleNamespace(
        services=lambda: services, known=lambda _: None, now={}, config=None, keep_alive_s=lambda _: -1.0
    )
    known = cast(Any, nothing)
    return Reporter(
        known,
        supervisor=cast(Any, ()),
        planner=known,
        records=Records(),
        text_files=known,
        idling=known,
        wall=lambda _: None,
        latency=lambda _: "normal",
        clock=ManualClock(),
    )


@pytest.mark.parametrize(("pin_share", "keeps"), [(0.5, True), (0.0, False)])
def test_a_route_tells_whether_prompts_are_kept(pin_share: float, keeps: bool) -> None:
    spec = ServiceSpec(name=ServiceName("a"), model="m", pin_share=pin_share)
    (route,) = reporter(Service(spec=spec, created_at=0.0)).routes()
    assert (route.name, route.keeps_prompts) == ("a", keeps)
