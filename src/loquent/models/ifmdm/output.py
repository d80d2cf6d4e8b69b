"""Our extension of the renderer: a last stage that keeps the photo's own pixels wherever they can be kept.

The published decoder draws every pixel anew from warped feature maps, and is blurred where training was short. This
stage moves the photo itself, in layers (`photo_layers`), back to front:

* the background, completed behind the person, which stays as it is;
* the inside of the mouth: one dark colour, two sprites that move with jaw and skull, drawn in the photo's colours and
  changed by what was learned, and what the photo shows between its lips, moving with the skull;
* the person above the line of the lips and the lids' lines, read by one flow, and below these lines, by another;
* drawn colours wherever the stage asks for them.

Flows are smooth, for all that is sharp lies in the layers; so the photo may have any larger size.

Shape letters: B batch, C channels, W width of the style, s side of the decoder's last level in pixels, S side of the photo.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from loquent.models.ifmdm.landmark_flow import LATTICE_PX, POINTS, gaussian_blur, inverse_affine, warp
from loquent.models.ifmdm.layers import ConvLayer, EqualConv, EqualLinear, ModulatedConv, StyledConv, leaky
from loquent.models.ifmdm.photo_layers import ALPHA, BLUE, LOWER, NEAR, RED, SPRITE_PX, TEETH, UPPER, shrink

if TYPE_CHECKING:
    from torch import Tensor

    from loquent.models.ifmdm.photo_layers import PhotoLayers

UPPER_FLOW, LOWER_FLOW = 0.05, 0.1  # half pictures: units in which the stage moves both layers, and the lower besides
LOOK = slice(UPPER, LOWER + 1)  # planes that the stage looks at
LOOK_FACTOR = 2  # at this many times the decoder's size
_OVERSHOOT = 0.02  # shares this near to 0 and 1 become 0 and 1, so that what is still is exactly still
_START_BIAS = (0.0, 0.0, 0.0, -2.5, 2.0)  # colours, share of the drawn, of the photo's own inside
_SPRITE_CHANNELS = 16
_MOVED = 0.03  # of the jaw, in the sprites' box: 0.7 mm
_MOST_CHANGE = 0.3  # of the drawn sprites' colours, which reach from −1 to 1
_WINDOW = 0.375  # side of the square around the mouth in which its inside is drawn, of the picture's
_FRINGE = 0.06  # of hair above the photo, half pictures
# Light on what stands behind the lips: this much right behind them; all of it a little further in. As in `render.mouth`.
_BEHIND_LIPS, _IN_THE_OPEN = 0.4, 1.1
_SHADOW = 0.0036  # deviation of the lips' shadow, of the picture's side; 1.1 mm on a face of the usual size
_OWN_LEAST = 0.9  # share of the photo's own teeth over the drawn ones
_TINY = 1e-3
_LARGEST = 0.999  # of a code, whose tanh is undone


@dataclass(frozen=True, eq=False)
class MouthSketch:
    """The inside of a mouth."""

    skull: Tensor  # (B, 2, 3): from a place in the picture to one in the photo, in the box of `PhotoLayers.to_mouth`
    jaw: Tensor  # (B, 2): by how much the lower sprite is read elsewhere
    sprites: Tensor  # (B, 8, h, w): colour in [−1, 1] and alpha in 0..1, of the upper and of the lower jaw

    def rows(self, some: slice) -> MouthSketch:
        """Of some pictures of the batch."""
        return MouthSketch(self.skull[some], self.jaw[some], self.sprites[some])


@dataclass(frozen=True, eq=False)
class Sketch:
    """What the decoder knows of a picture before it is put together."""

    flows: list[Tensor]  # raw flow (B, 3, side, side) of every level, see `FlowHead`
    colours: Tensor  # (B, 3, side, side)
    shares: Tensor | None = (
        None  # (B, 2, side, side): of the drawn colours; of the photo between the lips; before sigmoid
    )
    upper: Tensor | None = None  # (B, 2, s, s): where the upper layer is read, half pictures beside the own place
    lower: Tensor | None = None  # the same of the lower layer
    mouth: MouthSketch | None = None

    def row(self, number: int) -> Sketch:
        """Of one picture of the batch, without the levels' flows."""
        one = slice(number, number + 1)
        shares, upper, lower = (None if x is None else x[one] for x in (self.shares, self.upper, self.lower))
        mouth = self.mouth and self.mouth.rows(one)
        return Sketch([], self.colours[one], shares, upper, lower, mouth)


@dataclass(frozen=True, eq=False)
class FaceMove:
    """What a code does to a face by the portrait's landmarks alone; see `landmark_flow`."""

    upper: Tensor  # (B, 2, L, L): where the upper layer is read, half pictures beside the own place
    lower: Tensor
    near: Tensor  # (B, 1, L, L): where in the picture this is the flow
    skull: Tensor  # (B, 2, 3), as in `MouthSketch`
    jaw: Tensor  # (B, 2)

    @staticmethod
    def of(layers: PhotoLayers, moved: Tensor) -> FaceMove:
        """Of landmarks moved by (B, K, 2), half pictures."""
        upper, lower, near = layers.field.flows(moved)
        return FaceMove(upper, lower, near, *mouth_move(layers, moved))


def mouth_move(layers: PhotoLayers, moved: Tensor) -> tuple[Tensor, Tensor]:
    """What skull and jaw do, as in `MouthSketch`, (B, 2, 3) and (B, 2), when landmarks move by (B, K, 2) half pictures."""
    field, to_mouth = layers.field, layers.to_mouth.to(moved)
    skull = _after(to_mouth, _after(inverse_affine(field.skull_of(moved)), inverse_affine(to_mouth)))
    return skull, -(to_mouth[:, :, :2] @ field.jaw_of(moved)[..., None])[..., 0]


class MouthSprites(nn.Module):
    """What training adds to the drawn teeth and tongue: a learned picture, tinted by the style, that changes their colours;
    and how skull and jaw move, where codes do not tell.

    Args:
        style_dim: channels of the style.
        moves: False where codes tell, see `FaceMove`.
    """

    def __init__(self, style_dim: int, *, moves: bool, hidden_dim: int = 128) -> None:
        super().__init__()
        self.texture = nn.Parameter(0.1 * torch.randn(_SPRITE_CHANNELS, *SPRITE_PX))
        self.tint = StyledConv(_SPRITE_CHANNELS, _SPRITE_CHANNELS, style_dim)
        self.paint = ModulatedConv(_SPRITE_CHANNELS, 6, 1, style_dim, demodulate=False)
        self.moves = moves
        if moves:
            self.hidden = nn.ModuleList([EqualLinear(style_dim, hidden_dim), EqualLinear(hidden_dim, hidden_dim)])
            self.motion = EqualLinear(hidden_dim, 8)

    def forward(self, style: Tensor, drawn: Tensor, face: FaceMove | None = None) -> MouthSketch:
        """Args:
        style: (B, W).
        drawn: `PhotoLayers.sprites`, (B or 1, 8, h, w).
        face: what codes tell. Without either, skull and jaw stay.
        """
        texture = _soften(self.texture).expand(len(style), -1, -1, -1)
        change = _MOST_CHANGE * torch.tanh(self.paint(self.tint(texture, style), style))
        change = change.float() if change.dtype == torch.bfloat16 else change
        jaws = drawn.to(change.dtype).expand(len(style), -1, -1, -1).unflatten(1, (2, 4))
        colours = (jaws[:, :, :3] + change.unflatten(1, (2, 3))).clamp(-1, 1)
        sprites = torch.cat([colours, jaws[:, :, 3:]], dim=2).flatten(1, 2)
        if face is not None:
            return MouthSketch(face.skull, face.jaw, sprites)
        still = torch.eye(2, 3, dtype=change.dtype, device=change.device).expand(len(style), -1, -1)
        if not self.moves:
            return MouthSketch(still, still[:, :, 2], sprites)
        moved = style
        for layer in self.hidden:
            moved = leaky(layer(moved))
        skull, jaw = self.motion(moved).to(change.dtype).split((6, 2), dim=1)
        return MouthSketch(still + skull.unflatten(1, (2, 3)), jaw, sprites)


def _soften(texture: Tensor) -> Tensor:
    """Means of neighbours, 1 2 1 each way (C, h, w): what training has not seen yet is no noise."""
    line = texture.new_tensor((0.25, 0.5, 0.25))
    planes = F.pad(texture[:, None], (1, 1, 1, 1), mode="replicate")
    return F.conv2d(planes, (line[:, None] * line)[None, None])[:, 0]


class OutputStage(nn.Module):
    """Flows, shares and colours for the layers of a photo.

    Args:
        input_dim: channels of the last level.
        dim: channels of this stage.
        style_dim: channels of the style.
        factor: how many times as fine as the last level shares and colours are.
        motion_dim: numbers of a code that is relative and steered; 0 where codes have no known meaning.
    """

    displacement: Tensor  # (M, 2 K): what the numbers of a code before tanh do to landmarks, half pictures

    def __init__(self, input_dim: int, dim: int, style_dim: int, factor: int, motion_dim: int = 0) -> None:
        super().__init__()
        self.register_buffer("displacement", torch.zeros(motion_dim, 2 * len(POINTS)))
        self.factor = factor
        self.conv = StyledConv(input_dim, dim, style_dim)
        self.look = ConvLayer((LOOK.stop - LOOK.start) * LOOK_FACTOR**2, dim, 3)
        self.join = ConvLayer(dim, dim, 3)
        self.shift = ModulatedConv(dim, 4, 3, style_dim, demodulate=False)
        self.planes = EqualConv(dim, 5 * factor**2, 3, padding=1)
        self.bias = nn.Parameter(torch.tensor(_START_BIAS))
        self.mouth = MouthSprites(style_dim, moves=not motion_dim)

    def forward(
        self,
        x: Tensor,
        style: Tensor,
        flows: list[Tensor],
        rgb: Tensor,
        layers: PhotoLayers,
        motion: Tensor | None,
        *,
        whole: bool = True,
    ) -> Sketch:
        """Args:
            x: the last level's map, (B, C, s, s).
            style: (B, W).
            flows: raw flow of every level.
            rgb: the decoder's colours, (B, 3, s, s).
            layers: of the photo, S a multiple of factor·s.
            motion: (B, M); None does not move.
            whole: False leaves out what only `compose` needs.

        Returns:
            Colours and shares of factor·s pixels.
        """
        face = None if motion is None else self.face_move(layers, motion)
        base = base_offsets(torch.tanh(flows[-1][:, :2]), face)
        seen = look(seen_planes(layers, x.shape[-1]), base[0]).to(x.dtype)
        x = self.join(self.conv(x, style) + self.look(seen))
        shift, mouth = self.shift(x, style), self.mouth(style, layers.sprites, face)
        if not whole:
            return Sketch(flows, rgb, None, *both_offsets(base, shift), mouth)
        planes = F.pixel_shuffle(self.planes(x), self.factor) + self.bias[:, None, None]
        return finish(flows, base, shift, rgb, planes, mouth)

    def face_move(self, layers: PhotoLayers, motion: Tensor) -> FaceMove | None:
        """What codes (B, M) do to the face; None where they have no known meaning."""
        if not len(self.displacement):
            return None
        steps = torch.atanh(motion.float().clamp(-_LARGEST, _LARGEST)) @ self.displacement.float()
        return FaceMove.of(layers, steps.unflatten(1, (-1, 2)))


def seen_planes(layers: PhotoLayers, size: int) -> Tensor:
    """What a stage behind a level of `size` pixels looks at, (B, 6, 2·size, 2·size)."""
    return shrink(layers.own[:, LOOK], LOOK_FACTOR * size)


def look(planes: Tensor, offsets: Tensor) -> Tensor:
    """`seen_planes` of `LOOK_FACTOR`·s pixels moved by offsets (B, 2, n, n), in cells: (B, 24, s, s)."""
    return F.pixel_unshuffle(
        warp(planes.expand(len(offsets), -1, -1, -1), enlarge(offsets, planes.shape[-1])), LOOK_FACTOR
    )


def base_offsets(offsets: Tensor, face: FaceMove | None) -> tuple[Tensor, Tensor]:
    """Of the upper and the lower layer before the stage's shift, (B, 2, n, n): the face's own, and elsewhere the last
    level's offsets (B, 2, s, s)."""
    if face is None:
        return offsets, offsets
    offsets = enlarge(offsets, LATTICE_PX)
    return torch.lerp(offsets, face.upper, face.near), torch.lerp(offsets, face.lower, face.near)


def finish(
    flows: list[Tensor], base: tuple[Tensor, Tensor], shift: Tensor, rgb: Tensor, planes: Tensor, mouth: MouthSketch
) -> Sketch:
    """The sketch, from `base_offsets`, the stage's shift (B, 4, s, s) of both layers, and its planes (B, 5, f·s, f·s)."""
    colours = enlarge(rgb, planes.shape[-1]) + planes[:, :3]
    return Sketch(flows, colours, planes[:, 3:], *both_offsets(base, shift), mouth)


def both_offsets(base: tuple[Tensor, Tensor], shift: Tensor) -> tuple[Tensor, Tensor]:
    """Of the upper and the lower layer (B, 2, n, n), from `base_offsets` and the stage's shift (B, 4, s, s)."""
    above, below = enlarge(shift.to(base[0].dtype), base[0].shape[-1]).chunk(2, dim=1)
    above = UPPER_FLOW * above
    return base[0] + above, base[1] + above + LOWER_FLOW * below


def compose(layers: PhotoLayers, sketch: Sketch) -> Tensor:
    """The picture (B, 3, S, S) of a photo of that size, in the flow's precision."""
    assert sketch.shares is not None  # the sketch of an output stage
    assert sketch.upper is not None
    assert sketch.lower is not None
    assert sketch.mouth is not None
    size, kind = layers.size, sketch.upper.dtype
    upper, lower = enlarge(sketch.upper, size), enlarge(sketch.lower, size)
    high = warp(layers.planes[:, NEAR : BLUE + 1], upper, beyond="reflection")
    low = warp(layers.planes[:, ALPHA : LOWER + 1], lower, beyond="reflection")
    above = high[:, 1:2].clamp_min(_TINY)
    below = torch.minimum(low[:, 4:], 1 - high[:, 1:2])  # a lid covers the eye
    gap = (1 - above - below).clamp_min(0) * high[:, :1]
    scale = 1 / (above + below + gap)
    left = _below_top(upper) * scale
    person = torch.addcmul(high[:, 2:] * (above * left), low[:, :4], below * left)  # alpha, and colours times alpha
    shares, colours = shares_of(sketch.shares.to(kind)), sketch.colours.to(kind)
    own = _OWN_LEAST + (1 - _OWN_LEAST) * shares[:, 1:]
    _add_mouth(person, layers, sketch.mouth, gap * scale, own)
    picture = torch.addcmul(person[:, 1:], 1 - person[:, :1], layers.background)
    if not torch.is_grad_enabled() and not shares[:, :1].any():
        return picture
    return picture + enlarge(shares[:, :1], size) * (enlarge(colours, size) - picture)


def _add_mouth(person: Tensor, layers: PhotoLayers, mouth: MouthSketch, gap: Tensor, own: Tensor) -> None:
    """Adds what is seen between the lips to a person (B, 4, S, S) of alpha and colours times alpha, in place.

    Args:
        person: see there.
        layers: of the photo.
        mouth: see there.
        gap: how much is seen, (B, 1, S, S).
        own: how much of all else the photo's own inside covers, (B, 1, s, s).
    """
    size, to_mouth = layers.size, layers.to_mouth
    side = round(_WINDOW * size)
    corners = _window_corners(mouth.skull, to_mouth, size, side)
    line = (2 * torch.arange(side, device=gap.device, dtype=gap.dtype) + 1) / size - 1
    first = torch.tensor(corners, device=gap.device, dtype=gap.dtype) * (2 / size)  # (B, 2)
    x, y = line + first[:, :1], line + first[:, 1:]
    x, y = x[:, None].expand(-1, side, -1), y[:, :, None].expand(-1, -1, side)
    places = torch.stack([x, y, torch.ones_like(x)], dim=-1)  # (B, side, side, 3)
    own = F.grid_sample(own, places[..., :2], padding_mode="border", align_corners=False)
    colours = layers.cavity[:, :, None, None].to(gap.dtype)
    moved = _after(mouth.skull, to_mouth)  # picture to sprites
    upper = _read(mouth.sprites[:, :4], places, moved)
    lower = _read(mouth.sprites[:, 4:], places, moved, mouth.jaw - layers.to_jaw.to(mouth.jaw))
    photo = layers.planes[:, RED : TEETH + 1]
    photo = _read(photo, places, _after(inverse_affine(to_mouth), moved), layers.shift.to(places))
    # What is dark between the photo's teeth is kept only while the jaw has not moved.
    moved_jaw = (mouth.jaw.detach().norm(dim=1) / _MOVED).clamp(max=1).to(photo)[:, None, None, None]
    windows = [(slice(top, top + side), slice(left, left + side)) for left, top in corners]
    light = _light(torch.stack([gap[row, :, *window] for row, window in enumerate(windows)]), size)
    for picture, share in (
        ((lower[:, :3] + 1) * light - 1, lower[:, 3:]),
        ((upper[:, :3] + 1) * light - 1, upper[:, 3:]),
        (photo[:, :3], own * photo[:, 4:5] * torch.lerp(torch.ones_like(moved_jaw), photo[:, 5:], moved_jaw)),
    ):
        colours = colours + share * (picture - colours)
    for row, window in enumerate(windows):
        inside = torch.cat([torch.ones_like(colours[row, :1]), colours[row]])
        person[row, :, *window] += gap[row, :, *window] * inside


def _light(gap: Tensor, size: int) -> Tensor:
    """How much light falls through the lips on the teeth, of an opening (B, 1, n, n) in pictures of `size` pixels."""
    sigma = _SHADOW * size
    soft = gaussian_blur(gap, sigma, 2 * math.ceil(2 * sigma) + 1)
    return (_BEHIND_LIPS + _IN_THE_OPEN * soft).clamp(max=1)


def _window_corners(skull: Tensor, to_mouth: Tensor, size: int, side: int) -> list[tuple[int, int]]:
    """Left and top pixel of the square around each mouth of a picture, inside of it."""
    to_picture = inverse_affine(_after(skull.detach(), to_mouth))
    middle = (to_picture[:, :, 2].float() + 1) * (size / 2) - side / 2
    return [tuple(pair) for pair in middle.round().clamp(0, size - side).int().tolist()]


def _after(second: Tensor, first: Tensor) -> Tensor:
    """Affine maps (B, 2, 3), one after the other."""
    linear = second[:, :, :2] @ first[:, :, :2]
    return torch.cat([linear, second[:, :, :2] @ first[:, :, 2:] + second[:, :, 2:]], dim=2)


def _read(picture: Tensor, places: Tensor, affine: Tensor, shift: Tensor | None = None) -> Tensor:
    """Planes (B, C, h, w) at places (B, n, n, 3) after an affine map and a shift (B, 2); zeros beyond the edges."""
    grid = places.flatten(1, 2) @ affine.transpose(1, 2)
    if shift is not None:
        grid = grid + shift[:, None]
    grid = grid.unflatten(1, places.shape[1:3])
    return F.grid_sample(picture.to(grid.dtype), grid, padding_mode="zeros", align_corners=False)


def shares_of(logits: Tensor) -> Tensor:
    """Shares in 0..1, exactly 0 or 1 at the ends."""
    return (torch.sigmoid(logits) * (1 + 2 * _OVERSHOOT) - _OVERSHOOT).clamp(0, 1)


def _below_top(offsets: Tensor) -> Tensor:
    """How much is left of the person where offsets (B, 2, S, S) read above the photo, (B, 1, S, S): cut hair fades."""
    size = offsets.shape[-1]
    line = (2 * torch.arange(size, device=offsets.device, dtype=offsets.dtype) + 1) / size - 1
    return (1 + (offsets[:, 1:] + line[:, None] + 1) / _FRINGE).clamp(0, 1)


def enlarge(planes: Tensor, size: int) -> Tensor:
    """(B, C, s, s) to (B, C, size, size), bilinear."""
    if planes.shape[-1] == size:
        return planes
    return F.interpolate(planes, size=(size, size), mode="bilinear", align_corners=False)
