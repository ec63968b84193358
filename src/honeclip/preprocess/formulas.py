"""Text rule of formulas: LaTeX and Unicode end as the same plain text, in captions and queries alike. Imports no torch.

The plain form is what people type: H2O, Ca2+, 10^-3, m^2, µm, α, ×. Only what LaTeX or Unicode's small digits write is
changed; "C6H5Br" and "10^-3" are plain already, the dollars of "$5 and $10" no formula, and no letter changes its case.
"""

from __future__ import annotations

import re

from honeclip.preprocess.notation import degrees, micro

ROUNDS = 6
"""How deep braces within braces are followed."""

_GREEK_NAMES = (
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|pi|rho|sigma|tau|upsilon|phi|chi|psi|omega|"
    "Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Upsilon|Phi|Psi|Omega|varepsilon|vartheta|varphi|varrho|varsigma"
)
_GREEK = dict(zip(_GREEK_NAMES.split("|"), "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΥΦΨΩεϑϕϱς", strict=True))
_SIGNS = {
    "times": "×", "pm": "±", "mp": "∓", "cdot": "·", "div": "÷", "ast": "*", "circ": "∘", "degree": "°",
    "textdegree": "°", "celsius": "°C", "AA": "Å", "angstrom": "Å", "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "ll": "≪",
    "gg": "≫", "ne": "≠", "neq": "≠", "approx": "≈", "sim": "~", "simeq": "≃", "equiv": "≡", "propto": "∝", "infty": "∞",
    "partial": "∂", "nabla": "∇", "sum": "∑", "int": "∫", "to": "→", "rightarrow": "→", "longrightarrow": "→",
    "leftarrow": "←", "leftrightarrow": "↔", "rightleftharpoons": "⇌", "Rightarrow": "⇒", "uparrow": "↑", "downarrow": "↓",
    "hbar": "ħ", "ell": "ℓ", "prime": "′", "odot": "☉", "oplus": "⊕", "dagger": "†", "ldots": "…", "dots": "…",
    "textmu": "μ", "micro": "μ", "percent": "%", "quad": " ", "qquad": " ",
}  # fmt: skip
_COMMANDS = _GREEK | _SIGNS
_COMMAND = re.compile(r"\\([A-Za-z]+)(?![A-Za-z])")
_MICRO_COMMAND = re.compile(r"\\(?:mu|textmu|micro)(?![A-Za-z])\s*(?=\\?[A-Za-z])")
_GREEK_THEN_LETTER = re.compile(rf"\\({_GREEK_NAMES})(?![A-Za-z])\s+(?=[A-Za-z\\_^])")
_SIZED = re.compile(r"\\(?:left|right|big|Big|bigg|Bigg)[lr]?\s?(?=[()\[\]|/<>])")
_SPACES = re.compile(r"\\[,;: ]")
_FONT = (
    "mathrm|mathit|mathbf|mathsf|text|textrm|textit|textbf|textsf|rm|operatorname|ce|mbox|boldsymbol|bm|emph|unit|si"
)
_FONT_GROUP = re.compile(rf"\\(?:{_FONT})\s?\{{([^{{}}]*)\}}")
_FRACTION = re.compile(r"\\[dt]?frac\s?\{([^{}]*)\}\s?\{([^{}]*)\}")
_ROOT = re.compile(r"\\sqrt\s?\{([^{}]*)\}")
_BARE_GROUP = re.compile(r"(?<![_^\\A-Za-z}])\{([^{}]*)\}")

# pandoc's rule: no space inside the dollars, no digit behind the second
_MATH = re.compile(
    r"\$\$?(?=[^\s$])(?P<dollar>[^$]*[^\s$\\])\$\$?(?!\d)|\\\((?P<round>.*?)\\\)|\\\[(?P<square>.*?)\\\]"
)
_IS_MATH = re.compile(r"[\\_^{}=]|^[A-Za-zͰ-Ͽ]\w?$|^\w+[+\-*/]\w+$")
_BARE_SCRIPT = re.compile(r"(?<=[^\s\\])([_^])\s?(-?\d+[+-]?|[A-Za-z+*-])|^([_^])(\d+)")

_SUBSCRIPT = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ", "0123456789+-=()aehijklmnoprstuvx")
_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁱⁿ", "0123456789+-=()in")
_SUBSCRIPTS = re.compile(f"[{''.join(map(chr, _SUBSCRIPT))}]+")
_SUPERSCRIPTS = re.compile(f"[{''.join(map(chr, _SUPERSCRIPT))}]+")

_ELEMENT = (
    "A[cglmr-u]|B[aehikr]?|C[adefl-orsu]?|D[bsy]|E[rsu]|F[elmr]?|G[ade]|H[efgos]?|I[nr]?|K[r]?|L[airuv]|M[cdgnot]|N[abdehiop]?"
    "|O[gs]?|P[abdmortu]?|R[abe-hnu]|S[bcegimnr]?|T[abcehilms]|U|V|W|Xe|Yb?|Z[nr]"
)
_TYPED_FORMULA = re.compile(
    rf"(?<![\w\\])(?=(?:{_ELEMENT})_?\d*[A-Z(_])(?:(?:{_ELEMENT})(?:_?\d+)?){{1,12}}(?![A-Za-z_])"
)
_ALONE_IN_PAIRS = re.compile(r"(?:H|N|O|F|Cl|Br|I)_2")

_DEGREE = re.compile(r"\^\s?(?:\{\s?[∘°]\s?\}|[∘°])")
_DIGITS_BELOW = re.compile(r"(?<=[A-Za-zͰ-Ͽ)\]])_\{(\d+)\}")
_CHARGE = re.compile(rf"(?<![A-Za-z])(?P<ion>{_ELEMENT})\^\{{?(?P<charge>\d?[+-])\}}?(?![\w+-])")
_SIGN_ABOVE = re.compile(r"(?<=[A-Za-z0-9)\]])\^\{([+-])\}")
_SCRIPT = re.compile(r"([_^])\{([^{}]*)\}")
_SIMPLE = re.compile(r"[+-]?\w+[+-]?|[+*-]|[′*]+")
_TIMES = re.compile(r"(?<=\d)\s?[×⨯]\s?(?=\d)")

_MAY_BE = re.compile(r"[\\$^_{₀-ₜᵢᵣᵤᵥⱼ⁰-⁹⁺-ⁿⁱ²³¹×⨯℃℉μµ°º˚]")


def plain_formulas(text: str) -> str:
    """Formulas as plain text: "H2O" for $H_2O$, H₂O and \\mathrm{H_2O}, "10^-3" for 10^{-3} and 10⁻³, "µm" for \\mu m."""
    if not _MAY_BE.search(text):
        return text
    text = _MATH.sub(_math, text)
    if "_" in text:
        text = _TYPED_FORMULA.sub(_typed, text)
    text = _SUBSCRIPTS.sub(lambda found: f"_{{{found[0].translate(_SUBSCRIPT)}}}", text)
    text = _SUPERSCRIPTS.sub(lambda found: f"^{{{found[0].translate(_SUPERSCRIPT)}}}", text)
    if "\\" in text:
        text = _commands(text)
    if "_{" in text or "^" in text:
        text = _scripts(text)
    return _TIMES.sub(" × ", degrees(micro(text)))


def _math(found: re.Match[str]) -> str:
    """What stands between marks of a formula, its scripts in braces; money stays as it is."""
    inner = found["dollar"] or found["round"] or found["square"]
    if not inner or (found["dollar"] and not _IS_MATH.search(inner)):
        return found[0]
    inner = _GREEK_THEN_LETTER.sub(lambda one: _GREEK[one[1]], inner.replace("~", " "))
    inner = _commands(_braced(inner))
    for _ in range(ROUNDS):
        stripped = _BARE_GROUP.sub(r"\1", inner)
        if stripped == inner:
            break
        inner = stripped
    return inner.strip(" ")


def _typed(found: re.Match[str]) -> str:
    """A formula typed with underscores and no dollars: CO_2; as it is where it may be another name, such as C_1."""
    formula = found[0]
    several = len(re.findall(_ELEMENT, formula)) > 1
    return formula.replace("_", "") if several or _ALONE_IN_PAIRS.fullmatch(formula) else formula


def _braced(formula: str) -> str:
    """The scripts of a formula in braces, where LaTeX needs none: H_{2}O."""
    return _BARE_SCRIPT.sub(lambda found: f"{found[1] or found[3]}{{{found[2] or found[4]}}}", formula)


def _commands(text: str) -> str:
    """LaTeX's commands as what they mean; unknown ones as they are."""
    text = _SPACES.sub(" ", _SIZED.sub("", text)).replace("\\!", "").replace("{,}", ",").replace("\\%", "%")
    # signs first: \mu\mathrm{m} must not become \mum
    text = _COMMAND.sub(lambda found: _COMMANDS.get(found[1], found[0]), _MICRO_COMMAND.sub("μ", text))
    for _ in range(ROUNDS):
        before = text
        text = _FONT_GROUP.sub(lambda found: _braced(found[1]), text)
        text = _FRACTION.sub(lambda found: f"{_whole(found[1])}/{_whole(found[2])}", text)
        text = _ROOT.sub(lambda found: f"√{_whole(found[1])}", text)
        if text == before:
            break
    return text


def _whole(part: str) -> str:
    return part if re.fullmatch(r"[\w.,]+", part) else f"({part})"


def _scripts(text: str) -> str:
    text = _DEGREE.sub("°", text.replace("^{}", "").replace("_{}", ""))
    text = _CHARGE.sub(
        lambda found: found["ion"] + found["charge"], _DIGITS_BELOW.sub(r"\1", text.replace("^{−", "^{-"))
    )
    text = _SIGN_ABOVE.sub(r"\1", text)
    return _SCRIPT.sub(lambda found: found[1] + (found[2] if _SIMPLE.fullmatch(found[2]) else f"({found[2]})"), text)
