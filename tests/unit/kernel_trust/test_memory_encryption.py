"""What the kernel tells of encrypted memory, on trees of made-up machines: yes, no, or cannot tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from thaloom.kernel.trust.memory_encryption import memory_encryption

AMD = "fpu sme sev sev_es sev_snp"


def machine(root: Path, flags: str | None, **files: str) -> Path:
    """`files`: path with `__` for `/` -> text."""
    (root / "proc").mkdir()
    text = "processor\t: 0\n" + ("" if flags is None else f"flags\t\t: {flags}\n")
    (root / "proc" / "cpuinfo").write_text(text)
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_dash_", "-")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def answers(root: Path) -> dict[str, str]:
    return {finding.name: finding.answer for finding in memory_encryption(root).findings}


def test_a_guest_of_tdx(tmp_path: Path) -> None:
    found = memory_encryption(machine(tmp_path, "fpu hypervisor tdx_guest"))
    assert (found.encrypted, found.virtual) == ("yes", "yes")
    assert answers(tmp_path)["TDX"] == "yes"


@pytest.mark.parametrize("place", ["sys__devices__system__cpu__sev__vmpl", "dev__sev_dash_guest"])
def test_a_guest_of_snp(place: str, tmp_path: Path) -> None:
    found = memory_encryption(machine(tmp_path, f"{AMD} hypervisor", **{place: "0\n"}))
    assert found.encrypted == "yes"
    assert all(answers(tmp_path)[name] == "yes" for name in ("SEV-SNP", "SEV-ES", "SEV"))


def test_a_guest_whose_processor_could_is_not_one_that_does(tmp_path: Path) -> None:
    found = memory_encryption(machine(tmp_path, "fpu sev hypervisor"))
    assert found.encrypted == "cannot tell"
    assert answers(tmp_path) | {"SEV": "cannot tell", "SEV-ES": "no", "TDX": "no"} == answers(tmp_path)
    assert "journalctl" in next(finding.because for finding in found.findings if finding.name == "SEV")


@pytest.mark.parametrize(
    ("cmdline", "answer"),
    [("quiet mem_encrypt=on", "yes"), ("mem_encrypt=on mem_encrypt=off", "no"), ("quiet", "cannot tell")],
)
def test_sme_of_a_host(cmdline: str, answer: str, tmp_path: Path) -> None:
    machine(tmp_path, AMD, proc__cmdline=cmdline)
    assert answers(tmp_path)["SME"] == answer
    assert answers(tmp_path)["SEV"] == "no", "a host is nobody's guest"


@pytest.mark.parametrize(("told", "answer"), [("1", "yes"), ("0", "no"), ("?", "cannot tell")])
def test_what_the_firmware_does_is_known_to_its_driver(told: str, answer: str, tmp_path: Path) -> None:
    root = machine(tmp_path, AMD, proc__cmdline="mem_encrypt=off")
    place = root / "sys/bus/pci/drivers/ccp/0000:01:00.5"
    place.mkdir(parents=True)
    (place / "tsme_status").write_text(f"{told}\n")
    assert answers(root)["TSME"] == answer
    assert memory_encryption(root).encrypted == answer


def test_a_machine_that_has_nothing_of_it(tmp_path: Path) -> None:
    found = memory_encryption(machine(tmp_path, "fpu sse2", proc__cmdline="quiet"))
    assert (found.encrypted, found.virtual, found.can_host) == ("no", "no", ())


def test_intels_total_memory_encryption_is_the_firmwares(tmp_path: Path) -> None:
    assert memory_encryption(machine(tmp_path, "fpu tme")).encrypted == "cannot tell"


def test_what_a_host_can_run(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        AMD,
        sys__module__kvm_amd__parameters__sev="Y\n",
        sys__module__kvm_amd__parameters__sev_es="1\n",
        sys__module__kvm_amd__parameters__sev_snp="N\n",
    )
    assert memory_encryption(root).can_host == ("SEV", "SEV-ES")


@pytest.mark.parametrize("flags", [None, "absent"])
def test_no_x86_or_no_proc_is_not_a_no(flags: str | None, tmp_path: Path) -> None:
    root = tmp_path if flags == "absent" else machine(tmp_path, None)
    found = memory_encryption(root)
    assert (found.encrypted, found.virtual) == ("cannot tell", "cannot tell")
    assert {finding.answer for finding in found.findings} == {"cannot tell"}


def test_this_machine_gets_an_answer() -> None:
    assert len(memory_encryption().findings) == 7
