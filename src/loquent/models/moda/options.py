"""What a user may ask of the published system beyond `Controls`."""

from __future__ import annotations

from dataclasses import dataclass

from loquent.errors import ControlsError
from loquent.models.moda.keypoints import Region


@dataclass(frozen=True, kw_only=True)
class ModaOptions:
    """How the released networks are used. The defaults are those of the release, without its silence file.

    Raises:
        ControlsError: a value is out of its range, or options do not go together.
    """

    silence_tail: bool = False  # pre-emphasised speech followed by 2 s of silence, which are cut off again
    lip_modulation: bool = False  # lips further from how they are in that silence, where they differ much
    skip_narrow_step: bool = False  # the last step, 0.001 wide, takes the velocity before it: a tenth faster
    state_neutral: bool = False  # the emotion "neutral" is stated; the release states none
    smoothing_s: float = 0.0  # standard deviation of a Gaussian window over the motion, seconds
    region: Region = "all"  # what moves; the rest stays as in the photo
    relative: bool = False  # generated motion counts from its first frame and is added to the photo's expression
    stitching: bool = True  # shoulders stay where they are
    strength: float = 1.0  # of all motion together
    gaze_x: float = 0.0  # where the eyes look, in the published editor's units; the release looks a little down
    gaze_y: float = -5.0
    smile: float = 0.0  # the editor's, added to every frame
    eye_opening: float | None = None  # as a factor of the photo's own, through the retargeting network; None leaves it
    lip_opening: float | None = None
    batch: int = 1  # frames drawn at once; a graphics card wants more

    def __post_init__(self) -> None:
        bounds = {
            "smoothing_s": (0, 1),
            "strength": (0, 2),
            "gaze_x": (-50, 50),
            "gaze_y": (-50, 50),
            "smile": (-2, 2),
            "eye_opening": (0, 2),
            "lip_opening": (0, 5),
            "batch": (1, 100),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ControlsError(f"{name} is {value}; choose a number from {low} to {high}")
        if self.lip_modulation and not self.silence_tail:
            raise ControlsError("lip_modulation compares with the silence at the end; set silence_tail as well")

    @property
    def sliders(self) -> dict[str, float]:
        """Of `keypoints.slider_change`."""
        return {"gaze_x": self.gaze_x, "gaze_y": self.gaze_y, "smile": self.smile}
