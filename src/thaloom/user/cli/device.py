"""`thaloom device ls|show`: what the drivers found on this machine."""

from __future__ import annotations

from thaloom.user.cli.command import Verbs, a_name, argument, verb
from thaloom.user.cli.completing import devices as complete_devices
from thaloom.user.cli.nearby import suggesting
from thaloom.user.cli.node import connect
from thaloom.user.cli.output import ABSENT, Output, count, paint, size
from thaloom.user.cli.texts import text

command = Verbs(
    "device",
    key="device",
    sections={"section.device": {"ls": "thaloom.user.cli.device:ls", "show": "thaloom.user.cli.device:show"}},
    aliases={"list": "ls"},
)


@verb("device.ls")
def ls(output: Output) -> None:
    with connect() as node:
        found = node.devices()
    output.document(found.model_dump())
    head = ["device", "kind", "name", "memory", "free", "cores", "health", "isolation"]
    rows = []
    for device in found.devices:
        reading = device.reading
        rows.append(
            [
                device.id,
                device.kind,
                device.name,
                size(device.memory_bytes),
                size(reading.memory_free_bytes if reading else None),
                count(device.num_cores),
                reading.health if reading else ABSENT,
                device.isolation,
            ]
        )
    output.table([text(f"head.{word}") for word in head], rows, right=frozenset({3, 4, 5}))
    for driver in found.absent:
        output.line(paint(text("device.absent", name=driver.name, reason=driver.reason), "dim"))


@verb("device.show")
@argument("device", type=a_name, shell_complete=complete_devices)
def show(output: Output, device: str) -> None:
    with connect() as node, suggesting(device, lambda: [found.id for found in node.devices().devices]):
        shown = node.device(device)
    output.document(shown.model_dump())
    reading = shown.reading
    facts = [
        ("device", shown.id),
        ("driver", shown.driver),
        ("kind", shown.kind),
        ("name", shown.name),
        ("vendor", shown.vendor),
        ("memory", size(shown.memory_bytes)),
        ("cores", count(shown.num_cores)),
        ("numa", ABSENT if shown.numa_node is None else str(shown.numa_node)),
        ("dtypes", ", ".join(shown.dtypes)),
        ("features", ", ".join(shown.features) or ABSENT),
        ("build", shown.build or ABSENT),
        ("unused", ", ".join(shown.unused) or ABSENT),
        ("isolation", shown.isolation),
    ]
    for cache in shown.caches:
        facts.append(("cache", f"L{cache.level} {cache.kind} {size(cache.size_bytes)} / {cache.shared_by}"))
    if reading is not None:
        facts += [("health", reading.health), ("used", size(reading.memory_used_bytes))]
        facts.append(("free", size(reading.memory_free_bytes)))
        if reading.temperature_c is not None:
            facts.append(("temperature", f"{reading.temperature_c:g} °C"))
        if reading.power_mw is not None:
            facts.append(("power", f"{reading.power_mw / 1000:g} W"))
    output.facts([(text(f"head.{name}"), value) for name, value in facts])
