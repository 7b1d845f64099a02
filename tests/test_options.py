"""The rules in the types of options: limits, dependencies, renamings, and the sentences that name them."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from seedfast.errors import UserError
from seedfast.options import (
    SET,
    Affects,
    AtLeast,
    Between,
    Example,
    Formerly,
    MayChange,
    MoreThan,
    OnlyWith,
    check,
    describe,
    may_change,
    refuse_unused,
    renamed,
    rules,
    walk,
)


@dataclass(frozen=True)
class Sampler:
    """Options of every kind of rule."""

    kind: Literal["ddim", "heun", "euler"] = "euler"
    eta: Annotated[float | None, Between(0, 1), OnlyWith(kind="ddim")] = None
    churn: Annotated[float, AtLeast(0), OnlyWith(kind=("heun", "euler"), steps=SET)] = 0.0
    steps: Annotated[int, AtLeast(1), MayChange()] = 10
    rate: Annotated[float, MoreThan(0), Formerly("speed")] = 1.0
    power: Annotated[float, MoreThan(-2.5)] = 0.0
    part: Annotated[float, Between(0, 1, open_low=True, open_high=True)] = 0.5
    sizes: Annotated[tuple[int, ...], AtLeast(4)] = (4, 8)
    limit: Annotated[int, AtLeast(2)] | None = None
    free: str = ""

    def __post_init__(self) -> None:
        check(self, "sampler.")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "sampler.steps must be at least 1, not 0."),
        ({"rate": 0.0}, "sampler.rate must be positive, not 0.0."),
        ({"power": -2.5}, "sampler.power must be more than -2.5, not -2.5."),
        ({"part": 0.0}, "sampler.part must be in (0, 1), not 0.0."),
        ({"part": 1.0}, "sampler.part must be in (0, 1), not 1.0."),
        ({"part": float("nan")}, "sampler.part must be in (0, 1), not nan."),
        ({"kind": "ddim", "eta": 1.5}, "sampler.eta must be in [0, 1], not 1.5."),
        ({"sizes": (8, 3)}, "sampler.sizes must be at least 4, not 3."),
        ({"limit": 1}, "sampler.limit must be at least 2, not 1."),
        ({"eta": 0.5}, "sampler.eta (0.5) has no effect without sampler.kind ddim: leave it out."),
        (
            {"kind": "ddim", "churn": 1.0},
            "sampler.churn (1.0) has no effect without sampler.kind heun or euler and sampler.steps: leave it out.",
        ),
    ],
    ids=str,
)
def test_what_a_rule_refuses_is_named_with_key_value_and_rule(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        Sampler(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"steps": 1},
        {"power": -2.4},
        {"kind": "ddim", "eta": 0.0},
        {"kind": "ddim", "eta": 1},
        {"kind": "heun", "churn": 2.0},
        {"sizes": ()},
        {"limit": 2},
        {"eta": None},
    ],
    ids=str,
)
def test_what_the_rules_allow_is_accepted(options: dict[str, Any]) -> None:
    Sampler(**options)


def test_twin_a_class_that_is_not_checked_accepts_everything() -> None:
    @dataclass
    class Unchecked:
        steps: Annotated[int, AtLeast(1)] = 0

    assert Unchecked(steps=-3).steps == -3


def test_an_option_is_described_in_words() -> None:
    assert describe(Sampler, "eta") == "in [0, 1]; only with kind ddim"
    assert describe(Sampler, "churn") == "at least 0; only with kind heun or euler and steps"
    assert describe(Sampler, "steps") == "at least 1"
    assert describe(Sampler, "part") == "in (0, 1)"
    assert describe(Sampler, "limit") == "at least 2"
    assert describe(Sampler, "free") == ""


def test_earlier_names_are_known() -> None:
    assert renamed(Sampler) == {"speed": "rate"}
    assert Formerly("speed") in rules(Sampler)["rate"]


@dataclass(frozen=True)
class Outer:
    """A configuration with a nested one."""

    inner: Sampler = field(default_factory=Sampler)
    seed: Annotated[int, MayChange()] = 1
    other: int = 2


def test_nested_options_have_dotted_names() -> None:
    names = [name for name, *_ in walk(Outer(), "run.")]
    assert names[:3] == ["run.inner", "run.inner.kind", "run.inner.eta"]
    assert names[-2:] == ["run.seed", "run.other"]
    owners = {name: owner for name, owner, *_ in walk(Outer())}
    assert isinstance(owners["inner.steps"], Sampler)
    assert isinstance(owners["seed"], Outer)
    assert may_change(Outer()) == {"inner.steps", "seed"}


def test_an_option_without_an_effect_is_refused_with_the_reason() -> None:
    refuse_unused(Sampler(), "free", "nothing reads it")
    with pytest.raises(UserError) as caught:
        refuse_unused(Sampler(free="x"), "free", "nothing reads it", "sampler.")
    assert str(caught.value) == "sampler.free (x) has no effect, because nothing reads it: leave it out."
    with pytest.raises(UserError, match=r"inner \(Sampler.*has no effect"):
        refuse_unused(Outer(Sampler(steps=3)), "inner", "nothing reads it")
    refuse_unused(Outer(), "inner", "a default that a factory makes is a default too")


def test_an_example_and_its_place_change_no_limit_and_no_help() -> None:
    @dataclass(frozen=True)
    class Tested:
        steps: Annotated[int, AtLeast(1), Example(3, other=2), Affects("files")] = 1
        other: int = 0

        def __post_init__(self) -> None:
            check(self)

    assert describe(Tested, "steps") == "at least 1"
    assert Tested(steps=7).steps == 7
    with pytest.raises(UserError, match="steps must be at least 1, not 0"):
        Tested(steps=0)
    example = next(rule for rule in rules(Tested)["steps"] if isinstance(rule, Example))
    assert (example.value, example.with_) == (3, {"other": 2})
    assert Affects("files") in rules(Tested)["steps"]
