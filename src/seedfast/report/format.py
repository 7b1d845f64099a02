"""Numbers and names as text for people."""

import math


def measured(value: float, error: float | None) -> str:
    """A number with its standard error, to two digits of the error: "1.632 ± 0.012"."""
    if not math.isfinite(value):
        return "not finite"
    if error is None or not math.isfinite(error) or error <= 0:
        return f"{value:.5g}"
    digits = min(12, max(0, 1 - math.floor(math.log10(error))))
    return f"{value:,.{digits}f} ± {error:,.{digits}f}"


def weights_name(kind: str) -> str:
    """The name of a kind of weights in text: "raw weights", "averaged weights"."""
    return {"raw": "raw weights", "ema": "averaged weights"}.get(kind, kind)


def spaced(name: str) -> str:
    """A name with spaces instead of underscores."""
    return str(name).replace("_", " ")


def duration(seconds: float) -> str:
    """A time in its two largest units: "1 h 23 min", "4 min 7 s", "0.82 s"."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def age(seconds: float) -> str:
    """The time since something happened, in the largest unit that fits: "3 days", "now"."""
    for unit, length in (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return "now"


def quantity(value: float) -> str:
    """A number with thousands separators, or with four digits if it is small."""
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def size(count: float) -> str:
    """A number of bytes in a fitting unit: "999 bytes", "15.3 MB"; "?" for NaN."""
    if math.isnan(count):
        return "?"
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
