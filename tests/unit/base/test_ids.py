from thaloom.base.ids import new_request_id, new_worker_id


def test_ids_do_not_repeat() -> None:
    assert len({new_worker_id() for _ in range(1000)}) == 1000
    assert new_request_id("chatcmpl").startswith("chatcmpl-")
