"""Suites of this host on a kernel with version 2 of control groups, and what only such a kernel shows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.hardware.guest.image import write_image
from tests.hardware.guest.kernel import Parts, find_parts
from tests.hardware.guest.machine import boot

ROOT = Path(__file__).parents[2]
SUITES: tuple[str, ...] = (
    "tests/hardware/guest/v2_limits.py",
    "tests/hardware/guest/v2_places.py",
    "tests/system/test_groups.py",
    "tests/system/test_walls.py",
)
TREE = ("pyproject.toml", "src/thaloom", "tests/__init__.py", "tests/conftest.py", "tests/system", "tests/hardware")
PACKAGES = (
    "pytest", "pytest-timeout", "pluggy", "iniconfig", "packaging", "pygments",
    "click", "pydantic", "pydantic-core", "annotated-types", "typing-extensions", "typing-inspection",
)  # fmt: skip
"""Of pytest and of the command line."""
BOUND_S = 600.0
"""Of the guest: it takes one to two minutes on two cores, more where others use them too."""


@pytest.fixture
def parts() -> Parts:
    found = find_parts()
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.mark.hardware
@pytest.mark.slow
@pytest.mark.timeout(BOUND_S + 60)
def test_the_suites_pass_on_a_kernel_with_version_2(parts: Parts, short_path: Path) -> None:
    image = short_path / "image"
    command = [
        sys.executable, "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider", "-p",
        "tests.hardware.guest.telling", *SUITES,
    ]  # fmt: skip
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(ROOT / "src"), "HOME": "/root",
        "LANG": "C.UTF-8",
    }  # fmt: skip
    write_image(image, tree=TREE, packages=PACKAGES, root=ROOT, command=command, environment=environment)
    first, arguments = sys.executable, f"-I -S {ROOT / 'tests/hardware/guest/init.py'}"
    told = boot(parts, image, first=first, arguments=arguments, folder=short_path, timeout_s=BOUND_S)
    failures = told.failures()
    assert not failures, "\n\n".join([f"{len(failures)} of {len(told.cases)} in the guest:", *failures])
    assert told.status == 0, f"{told.status=} after {len(told.cases)} cases\n{told.console}"
    assert {case.partition("::")[0] for case in told.cases} == {*SUITES}
