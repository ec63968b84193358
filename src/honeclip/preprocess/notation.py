"""Text rules of quantities and parts: units, tolerances, threads and standards. Imports no torch.

Nothing is rounded, converted or put in another case: what can be read in two ways stays as it is, such as the comma of
"1,2-dichloroethane", "10,000 cells" and "1,234 mm".
"""

from __future__ import annotations

import re

# Units that mean nothing else right behind a number, in their own case.
_UNITS = (
    "km|cm|mm|µm|nm|Å|kg|mg|µg|ng|mL|ml|dL|dl|µL|µl|nL|ms|µs|ns|ps|min|Hz|kHz|MHz|GHz|THz|kV|mV|µV|kA|mA|µA|nA|kW|mW|"
    "MW|GW|kJ|MJ|kN|eV|keV|MeV|GeV|TeV|kΩ|MΩ|Ω|Pa|hPa|kPa|MPa|GPa|mbar|bar|mmHg|mol|mmol|µmol|nmol|mM|µM|nM|Gy|mGy|Sv|"
    "mSv|µSv|kBq|MBq|mT|µT|rpm|dB|kDa|Mbp|kbp|bp|kpc|Mpc|Gpc|AU|mas|HU|dpi|ppm|ppb|fps|px|kB|MB|GB"
)
_AFTER_MICRO = "m|g|l|L|s|A|V|W|M|F|N|H|J|T|C|Pa|Sv|Gy|Ci|mol|bar|Ω"
_TYPED_MICRO = "um|ug|uL|ul|uM|uV|uA"
"""What keyboards make of µ; only behind a number, for "um" is a word elsewhere."""

_NUMBER = r"\d+(?:[.,]\d+)*"
_FREE_NUMBER = r"\d(?:(?<![\w.,]\d)(?<![^\W\d_][-/.]\d)|(?<=\d[x×]\d))\d*(?:[.,]\d+)*"
"""A number that is no part of a name: not the 12 of AB12, AB-12 or A.12; but the 20 of M8x20."""

_QUANTITY = re.compile(
    rf"(?P<chain>{_FREE_NUMBER}(?:\s?[-–x×±/]\s?{_NUMBER}){{0,3}})"
    rf"(?:\s?(?P<unit>{_UNITS}|{_TYPED_MICRO})|\s(?P<letter>[mgLlVAWNKT]))"
    r"(?P<power>\^\{?-?[23]\}?|⁻?[²³]|(?<=m)[23])?(?![\w^{²³])"
)
_NAME = re.compile(r"[^\W\d_]\w*[-/.](?:[\w.-]*[-/.])?$")
_NAME_CHARACTERS = 40  # looked back for one
_DIGIT = re.compile(r"\d")
_DECIMAL = re.compile(r"(?<![\d.,])(\d+),(\d+)(?![\d.,]*\d)")
_MICRO = re.compile(rf"[μµ](?P<unit>(?:{_AFTER_MICRO})(?![^\W\d_]))?")
_MAY_BE_DEGREES = re.compile(r"[°º˚]|deg(?![a-z])")
_DEGREES = re.compile(rf"(?:(?P<number>{_FREE_NUMBER})\s?)?(?:[°º˚]|(?<=[\d\s])deg\.?)\s?(?P<scale>[CF])(?![\w'’-])")
_MINUS = re.compile(r"(?<![\w)\]}])−(?=\d)")
_PERCENT = re.compile(r"(?<=\d) (?=%)")

_EITHER = re.compile(r"\s?(?:±|\+\s?/\s?[-−–]|\+[-−])\s?(?=\.?\d)")
_BOTH = re.compile(rf"(?<![\w.)])\+\s?(?P<up>{_NUMBER})\s?/\s?[-−–]\s?(?P<down>{_NUMBER})(?![\w.,]*\d)")
_BEFORE_A_TOLERANCE = re.compile(r"(?<![\w.,])\d+,\d+(?= ?±)")
_TOLERANCE = re.compile(r"(?<=±)\d+,\d+(?![\d.,]*\d)")

_THREAD = re.compile(
    r"M(?<![\w.,-]M)(?P<size>\d{1,3}(?:[.,]\d)?)\s?[x×X*]\s?(?P<pitch>\d+(?:[.,]\d+)?)"
    r"(?:\s?[x×X*]\s?(?P<length>\d+(?:[.,]\d+)?))?(?!\d|[.,]\d)"
)
_STANDARD = re.compile(
    r"(?P<body>(?:EN|BS)(?<![\w-]..)|(?:ISO|DIN|IEC|JIS|SAE|VDI|VDE|UNS)(?<![\w-]...)|(?:ASTM|ANSI|ASME|AISI)(?<![\w-]....))"
    r"(?:\s?[-–‑‐]\s?|\s?)(?P<number>\d{3,6})(?!\d)"
)
_GENERAL_TOLERANCE = re.compile(
    r"(?<=ISO 2768)(?:\s?[-–‑‐]\s?|\s)(?=[fmcv][HKL](?!\w))|(?<=ISO 2768)[–‑‐](?=[fmcvHKL](?!\w))"
)
_HYPHEN = re.compile(r"(?<=\w)[‐‑](?=\w)")


def units(text: str) -> str:
    """Quantities written one way.

    One space between a number and its unit, "5 µm" for 5µm, 5 μm (the Greek letter) and 5 um, "20 °C" for 20° C and 20℃,
    "50%" for 50 %, "mm^2" for mm² and mm2, a minus sign before a number as "-". A decimal comma becomes a point before a
    unit, where it is none of thousands.
    """
    text = degrees(micro(text))
    if not _DIGIT.search(text):
        return text
    if "−" in text:
        text = _MINUS.sub("-", text)
    if " %" in text:
        text = _PERCENT.sub("", text)
    return _QUANTITY.sub(_quantity, text)


def micro(text: str) -> str:
    """The micro sign before a unit, the Greek letter elsewhere: one looks like the other, and people type either."""
    if "μ" not in text and "µ" not in text:
        return text
    return _MICRO.sub(lambda found: "μ" if found["unit"] is None else f"µ{found['unit']}", text)


def degrees(text: str) -> str:
    """Degrees of temperature: "20 °C" for 20°C, 20 ° C, 20 º C, 20℃ and 20 deg C."""
    text = text.replace("℃", "°C").replace("℉", "°F")
    if not _MAY_BE_DEGREES.search(text):
        return text
    return _DEGREES.sub(
        lambda found: f"{found['number']} °{found['scale']}" if found["number"] else f"°{found['scale']}", text
    )


def _quantity(found: re.Match[str]) -> str:
    """One quantity; as it is where its number ends the name of a part, as the 5 of AB-12-5mm does."""
    if _NAME.search(found.string[max(0, found.start() - _NAME_CHARACTERS) : found.start()]):
        return found[0]
    unit = found["unit"] or found["letter"]
    if re.fullmatch(_TYPED_MICRO, unit):
        unit = "µ" + unit[1:]
    chain = _DECIMAL.sub(lambda number: _point(number[0], sure=found["unit"] is not None), found["chain"])
    if found["power"]:
        unit += "^" + found["power"].translate(_POWERS)
    return f"{chain} {unit}"


_POWERS = str.maketrans({"^": "", "{": "", "}": "", "⁻": "-", "²": "2", "³": "3"})


def _point(number: str, *, sure: bool = True) -> str:
    """A number with a decimal comma as one with a point; as it is where the comma may part thousands or a list.

    Three digits may be thousands, unless a single 0 stands before them; `sure` is False where a list is likely too.
    """
    whole, _, part = number.partition(",")
    if not part.isdecimal() or not whole.isdecimal():
        return number
    return f"{whole}.{part}" if whole == "0" or (sure and len(part) != 3) else number


def tolerances(text: str) -> str:
    """Tolerances written one way: "10 ±0.1" for 10 +/- 0,1 and 10±0.1; "+0.1/-0.2" for + 0,1 / - 0,2."""
    if "±" not in text and "+" not in text:
        return text
    text = _BOTH.sub(lambda found: f"+{_point(found['up'])}/-{_point(found['down'])}", text)
    text = _EITHER.sub(lambda found: "±" if _opens(text, found.start()) else " ±", text)
    text = _TOLERANCE.sub(lambda found: _point(found[0]), text)
    return _BEFORE_A_TOLERANCE.sub(lambda found: _point(found[0]), text)


def _opens(text: str, place: int) -> bool:
    """Whether what stands there begins the text, or what a bracket or slash opens."""
    return place == 0 or text[place - 1] in "([{/"


def part_numbers(text: str) -> str:
    """Threads, standards and part numbers written one way; none loses its case or a digit.

    "M8x1.25" for M8 × 1,25; "ISO 2768-mK" for ISO2768–mK; hyphens that never break as plain ones.
    """
    if "‐" in text or "‑" in text:
        text = _HYPHEN.sub("-", text)
    if not _DIGIT.search(text):
        return text
    text = _STANDARD.sub(r"\g<body> \g<number>", text)
    if "2768" in text:
        text = _GENERAL_TOLERANCE.sub("-", text)
    return _THREAD.sub(_thread, text)


def _thread(found: re.Match[str]) -> str:
    sizes = (found[name] for name in ("size", "pitch", "length"))
    return "M" + "x".join(_point(one) for one in sizes if one)
