"""Numbers and names as people read them."""

import math


def measured(value: float, error: float | None) -> str:
    """A number with its standard error, to two digits of the error: "1.632 ± 0.012"."""
    if not math.isfinite(value):
        return "not finite"
    if error is None or not math.isfinite(error) or error <= 0:
        return f"{value:.5g}"
    digits = min(12, max(0, 1 - math.floor(math.log10(error))))
    return f"{value:,.{digits}f} ± {error:,.{digits}f}"


def weights_named(kind: str) -> str:
    """What people call a kind of weights."""
    return {"raw": "raw weights", "ema": "averaged weights"}.get(kind, kind)


def spaced(name: str) -> str:
    """A name without its underscores."""
    return str(name).replace("_", " ")


def duration(seconds: float) -> str:
    """The two largest units: "1 h 23 min", "4 min 7 s", "0.82 s"."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def counted(value: float) -> str:
    """A large number with separators, a small one with four digits."""
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def size(count: float) -> str:
    """A number of bytes, in the unit that suits it."""
    if math.isnan(count):
        return "?"
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
