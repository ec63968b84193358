"""Windows for DICOM: which grey values become black to white, by name or as [centre, width]. Knows no torch, no file.

A preset speaks of Hounsfield units, so it holds for files that have them: Modality CT, with a Rescale Slope or Intercept
(or a Modality LUT), and a Rescale Type of HU or none (PS3.3 C.8.2.1, C.11.1). A radiograph, an MR slice, a CT file without
a rescale, a scout in other units: each keeps the window that stands in it, as does every file under the name "file".
[centre, width] holds for every grey DICOM file, in its units after the rescale. Colour, palettes and all files that are
not DICOM stay as they are: their grey values have become what somebody chose already.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from honeclip.errors import DomainError

OWN = "file"
"""The name that stands for a file's own window."""

Asked = str | tuple[float, float]
"""As in a domain: the name of a preset, or (centre, width)."""


@dataclass(frozen=True)
class Window:
    """Values from centre - width / 2 to centre + width / 2 become black to white (PS3.3 C.11.2.1.2).

    Attributes:
        centre: in the units of the file after its rescale.
        width: above 0.
        modality: "CT" where the numbers are Hounsfield units, and hold for files in these alone; "" for every file.
    """

    centre: float
    width: float
    modality: str = ""


# Teaching values. They agree with the article "Windowing (CT)" of radiopaedia.org where nothing else is said; where that
# gives a range, its middle is taken. Sites differ: a field's own numbers go into its domain as [centre, width].
PRESETS = {
    # head and neck
    "brain": Window(40, 80, "CT"),
    "subdural": Window(75, 215, "CT"),  # level 50 to 100, width 130 to 300
    "stroke": Window(32, 8, "CT"),  # Lev et al., Radiology 1999 (213:150): lost contrast of grey and white matter
    "stroke wide": Window(40, 40, "CT"),  # the other of the two that are taught
    "temporal bone": Window(600, 2800, "CT"),
    "head soft tissue": Window(40, 375, "CT"),  # level 20 to 60, width 350 to 400
    # chest
    "lung": Window(-600, 1500, "CT"),
    "mediastinum": Window(50, 350, "CT"),
    "vascular": Window(200, 600, "CT"),  # heart and vessels with contrast medium
    # abdomen
    "abdomen": Window(50, 400, "CT"),
    "soft tissue": Window(50, 400, "CT"),  # the same, by its other name
    "liver": Window(30, 150, "CT"),
    # spine and bones
    "spine": Window(50, 250, "CT"),  # its soft tissues
    "bone": Window(400, 1800, "CT"),
}
"""By body part; all of CT. Other modalities have no units that two scanners share, and so no presets."""


def resolve(asked: Sequence[Asked]) -> tuple[Window | None, ...]:
    """The windows behind names and numbers; None is the file's own.

    Args:
        asked: none (the file's own), one, or three that become the colour channels. Names are taken in any case, with
            `_` or `-` for a space.

    Raises:
        DomainError: an unknown name (the nearest is shown), a width that is not above 0, or another count.
    """
    if len(asked) not in (0, 1, 3):
        raise DomainError(
            f"windows: {len(asked)} are given; take one for a grey picture, or three, one a colour channel"
        )
    found = tuple(_one(window) for window in asked)
    return found if any(found) else ()


def _one(asked: Asked) -> Window | None:
    if not isinstance(asked, str):
        centre, width = asked
        if not width > 0:
            raise DomainError(
                f"windows: [{centre:g}, {width:g}]: a window is [centre, width], and its width must be above 0"
            )
        return Window(float(centre), float(width))
    name = " ".join(asked.replace("_", " ").replace("-", " ").casefold().split())
    if name == OWN:
        return None
    if name not in PRESETS:
        known = [OWN, *PRESETS]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        raise DomainError(
            f"windows: there is no preset {asked!r}; "
            + (f"nearest: {near[0]!r}; " if near else "")
            + f"known are {', '.join(known)}, or give [centre, width]"
        )
    return PRESETS[name]
