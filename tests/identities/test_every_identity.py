"""Every identity of docs/identities.md holds on the installed code, and the command reports those that do not.

The other files here hold the broken twins, for each of which its identity fails.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.identities.test_masked_identities import Unweighted

from seedfast.cli.verify import verify
from seedfast.verify import identities
from seedfast.verify.identities import Check, check_all, checks, masked

DOCUMENT = Path(__file__).parents[2] / "docs" / "identities.md"
CHECKS = [
    pytest.param(heading, check, id=f"{heading}-{check.__name__}")
    for heading, those in checks().items()
    for check in those
]


@pytest.mark.parametrize(("heading", "check"), CHECKS)
def test_an_identity_holds_on_the_installed_code(heading: str, check: Callable[[], Check]) -> None:
    found = check()
    assert found.holds, found
    assert found.slug == heading
    assert str(found).startswith(f"{heading:<20}  {found.name}: ")


def test_every_documented_identity_is_checked() -> None:
    headings = [line[4:] for line in DOCUMENT.read_text().splitlines() if line.startswith("### ")]
    documented = {heading.lower().replace(" ", "-") for heading in headings}
    assert checks().keys() | {"lora", "resume", "scheduling-changes-nothing"} == documented  # these need whole runs


def test_the_command_checks_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identities, "checks", lambda: {"tightness": (masked.tightness,), "subs": (masked.subs,)})
    assert [found.slug for found in check_all()] == ["tightness", "subs"]


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
