"""The OpenAPI document tells of responses, files and batches what the door does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.contract.edge.live_door import LiveDoor
from tests.contract.edge.rehearsed import Scripted
from tests.contract.edge.test_openai_client import in_door

PARTS = ("/v1/responses", "/v1/files", "/v1/batches")


def test_every_described_operation_is_served_and_no_other(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        document = (await door.http.get("/openapi.json")).json()
        paths = {path: item for path, item in document["paths"].items() if path.startswith(PARTS)}
        assert len(paths) == 11
        for path, item in paths.items():
            methods = {name.upper() for name in item if name != "parameters"}
            for method in ("GET", "POST", "PUT", "DELETE", "PATCH"):
                response = await door.http.request(method, path.replace("{id}", "none"))
                code = "" if response.status_code == 200 else response.json()["error"]["code"]
                assert (code == "method_not_allowed") == (method not in methods), (method, path)
                assert code != "unknown_path"

    in_door(tmp_path, test, generation=Scripted())


def test_its_names_are_its_own_and_its_references_lead_somewhere(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        document = (await door.http.get("/openapi.json")).json()
        schemas = document["components"]["schemas"]
        for reference in json.dumps(document).split('"$ref": "')[1:]:
            assert reference.split('"')[0].removeprefix("#/components/schemas/") in schemas
        ids = [one["operationId"] for item in document["paths"].values() for one in item.values() if "tags" in one]
        assert len(ids) == len(set(ids))
        assert "previous_response_id" in schemas["ResponsesRequest"]["properties"]
        assert "input_file_id" in schemas["BatchRequest"]["properties"]
        made: dict[str, Any] = (await door.post("/v1/responses", {"model": "tiny", "input": "hi"})).json()
        told = set(schemas["Response"]["properties"])
        assert told <= set(made)
        assert set(made) - told == {"prompt_cache_key", "prompt_cache_retention", "safety_identifier"}

    in_door(tmp_path, test, generation=Scripted())
