"""Every identity of docs/identities.md holds on the installed code, and the command reports those that do not."""

from pathlib import Path

import pytest
from tests.identities.test_masked_identities import Unweighted

from seedfast.cli.verify import verify
from seedfast.verify import identities
from seedfast.verify.identities import check_all, masked

DOCUMENT = Path(__file__).parents[2] / "docs" / "identities.md"


def test_every_documented_identity_holds_on_the_installed_code() -> None:
    checks = list(check_all())
    assert [str(check) for check in checks if not check.holds] == []
    checked = {check.slug for check in checks}
    headings = [line[4:] for line in DOCUMENT.read_text().splitlines() if line.startswith("### ")]
    documented = {heading.lower().replace(" ", "-") for heading in headings}
    assert checked | {"lora", "resume", "scheduling-changes-nothing"} == documented  # these three need whole runs
    assert str(checks[1]).startswith("nelbo-forms           NELBO three ways: ")


def test_the_command_names_the_identity_that_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(identities, "check_all", lambda: iter([masked.tightness(), masked.tightness(Unweighted)]))
    assert verify(["identities"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert [line[:31] for line in printed] == [
        "ok   tightness             tigh",
        "FAIL tightness             tigh",
        "1 failed",
    ]
    monkeypatch.setattr(identities, "check_all", lambda: iter([masked.tightness()]))
    assert verify(["identities"]) == 0
