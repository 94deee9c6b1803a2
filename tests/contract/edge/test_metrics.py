"""The page of metrics by the rules of its own tools, the names dashboards look for, and a dashboard of ours."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.contract.edge.fake_worker import FakeWorker
from tests.contract.edge.live_door import LiveDoor
from tests.contract.edge.test_leaving import raw, until
from tests.contract.edge.test_openai_client import in_door
from thaloom.edge.api.entrance.handshakes import Handshakes
from thaloom.edge.api.measures.tls_metrics import TlsMetrics

ROOT = Path(__file__).resolve().parents[3]
DASHBOARD = ROOT / "docs" / "grafana" / "thaloom.json"
BY_DASHBOARDS = {
    # vLLM's own example dashboards, GPUStack, llm-d and others; both names where vLLM changed one.
    *("num_requests_running", "num_requests_waiting", "gpu_cache_usage_perc", "kv_cache_usage_perc"),
    *("prompt_tokens_total", "generation_tokens_total", "request_success_total", "num_preemptions_total"),
    *("prefix_cache_queries_total", "prefix_cache_hits_total"),
    *("time_to_first_token_seconds", "inter_token_latency_seconds", "time_per_output_token_seconds"),
    *("request_time_per_output_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds"),
    *("request_prefill_time_seconds", "request_decode_time_seconds"),
}


OF_TLS = TlsMetrics(Handshakes(lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), asyncio.Protocol), lambda: 2e9)


async def samples(door: LiveDoor) -> dict[tuple[str, ...], float]:
    """(name, labels but for the engine in their order ...) -> value."""
    page = (await door.http.get("/metrics")).text
    return {
        (sample.name, *(value for label, value in sorted(sample.labels.items()) if label != "engine")): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def promtool(page: str) -> list[str]:
    """What it complains of."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not here; please run: make deps-system")
    done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True, check=False)
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if line]
    assert (done.returncode == 0) == (not complaints)
    return complaints


@pytest.mark.packages
def test_our_metrics_are_as_prometheus_wants_them(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("Hello")
        await door.chat()
        await door.chat(model="no such")
        assert promtool((await door.http.get("/metrics?names=own")).text) == []

    in_door(tmp_path, test, worker=FakeWorker(degraded="no compiler"), collectors=[OF_TLS])


@pytest.mark.packages
def test_of_the_names_of_others_it_complains_of_the_colon_alone(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("Hello")
        await door.chat()
        complaints = promtool((await door.http.get("/metrics")).text)
        other = [line for line in complaints if not re.fullmatch(r"vllm:\S+ metric names should not contain ':'", line)]
        assert other == []

    in_door(tmp_path, test)


def test_every_name_that_dashboards_use_is_there_with_their_labels(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("Hello")
        await door.chat()
        page = (await door.http.get("/metrics")).text
        for name in BY_DASHBOARDS:
            assert re.search(rf'^vllm:{name}(_count)?{{.*model_name="tiny".*}}', page, re.MULTILINE), name
            assert re.search(rf'^vllm:{name}(_count)?{{.*engine="0".*}}', page, re.MULTILINE), name
            assert f"# HELP vllm:{name} " in page
        assert "vllm:" not in (await door.http.get("/metrics?names=own")).text

    in_door(tmp_path, test)


def test_aliases_are_the_same_numbers(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("Hello")
        for _ in range(3):
            await door.chat()
        values = await samples(door)
        assert values["vllm:request_success_total", "stop", "tiny"] == 3
        for own, alias in (
            ("answer_seconds", "e2e_request_latency_seconds"),
            ("time_to_first_token_seconds", "time_to_first_token_seconds"),
            ("inter_token_seconds", "inter_token_latency_seconds"),
            ("queue_seconds", "request_queue_time_seconds"),
        ):
            for end in ("_sum", "_count"):
                assert values[f"vllm:{alias}{end}", "tiny"] == values[f"thaloom_{own}{end}", "tiny"]
            assert values[f"vllm:{alias}_bucket", "+Inf", "tiny"] == values[f"thaloom_{own}_count", "tiny"]
        assert values["vllm:kv_cache_usage_perc", "tiny"] == pytest.approx(4 / 64)
        assert values["vllm:prefix_cache_queries_total", "tiny"] == 5
        assert values["vllm:prefix_cache_hits_total", "tiny"] == 2
        assert values["vllm:generation_tokens_total", "tiny"] == 7
        buckets = [value for (name, *_), value in values.items() if name == "thaloom_inter_token_seconds_bucket"]
        assert buckets == sorted(buckets), "cumulative"

    in_door(tmp_path, test)


def test_answers_are_counted_by_how_they_ended(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("Hello")
        await door.chat()
        await door.chat(max_tokens=2)
        door.worker.die_after = 1
        assert (await door.chat()).status_code == 502
        door.worker.die_after = None
        door.worker.endless = True
        _, writer = await raw(door, {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": True})
        await until(lambda: door.worker.num_open)
        writer.close()
        await door.worker.until_idle()
        for _ in range(200):  # until the door has seen it too
            values = await samples(door)
            if ("thaloom_answers_total", "abort", "tiny") in values:
                break
            await asyncio.sleep(0.01)
        ended = {key[1]: value for key, value in values.items() if key[0] == "thaloom_answers_total"}
        assert ended == {"stop": 1, "length": 1, "error": 1, "abort": 1}
        aliased = {key[1]: value for key, value in values.items() if key[0] == "vllm:request_success_total"}
        assert aliased == ended

    in_door(tmp_path, test)


def test_a_worker_that_is_away_has_no_numbers_under_any_name(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        values = await samples(door)
        assert ("thaloom_worker_up", "tiny", "tiny") in values
        assert values["thaloom_worker_up", "tiny", "tiny"] == 0
        assert not any(key[0].startswith("vllm:num_requests") for key in values), "not up is not zero"

    in_door(tmp_path, test, worker=FakeWorker(silent_status=True))


def test_every_metric_of_the_dashboard_exists(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("Hello")
        await door.chat()
        await door.chat(model="no such")
        known = {key[0] for key in await samples(door)}
        dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
        asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
        names = {name for expr in asked for name in re.findall(r"\b(?:thaloom|vllm|process)[_:][a-z0-9_]+", expr)}
        assert len(names) > 15
        assert names - known == set()
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(set(ids)) == len(ids)
        for panel in dashboard["panels"]:
            assert panel["title"]
            assert panel["type"] == "row" or panel["fieldConfig"]["defaults"]["unit"], panel["title"]

    in_door(tmp_path, test, collectors=[OF_TLS])


@pytest.mark.packages
def test_every_expression_of_the_dashboard_is_one(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not here; please run: make deps-system")
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    rules = [
        {"record": f"dashboard:{panel['id']}:{index}", "expr": target["expr"].replace("$__rate_interval", "5m")}
        for panel in dashboard["panels"]
        for index, target in enumerate(panel.get("targets", []))
    ]
    path = tmp_path / "rules.json"  # JSON is YAML
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
