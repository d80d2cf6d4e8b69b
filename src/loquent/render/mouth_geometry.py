"""Teeth, gums and tongue as parametric surfaces, in millimetres.

Frame of everything here: x to the picture's right, y down, z away from the viewer; the origin is the point between the
two upper central incisors at their edge. The upper jaw is fixed to the skull, the lower jaw turns about a hinge.

Mean crown sizes are the textbook figures of dental anatomy (Wheeler; Nelson and Ash, "Wheeler's Dental Anatomy,
Physiology and Occlusion", tables of average measurements); arch widths and the place in the face are compared with a
scanned head in docs/mouth.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Crown sizes in millimetres from the midline backwards: mesiodistal width, crown height, buccolingual depth.
UPPER_CROWNS = (
    (8.5, 10.5, 7.0),
    (6.5, 9.0, 6.0),
    (7.6, 10.0, 8.0),
    (7.0, 8.5, 9.0),
    (6.8, 8.0, 9.0),
    (10.0, 7.5, 11.0),
)
LOWER_CROWNS = ((5.2, 9.0, 6.0), (5.7, 9.3, 6.5), (6.8, 10.5, 7.7), (7.0, 8.5, 7.7), (7.1, 8.0, 8.0), (11.0, 7.5, 10.5))
KINDS = ("incisor", "incisor", "canine", "premolar", "premolar", "molar")
# How far each edge or cusp lies from the occlusal line, towards the gum, in millimetres.
UPPER_EDGE_RISE = (0.0, 0.6, -0.1, 0.7, 1.1, 1.6)
LOWER_EDGE_RISE = (0.0, 0.1, -0.3, 0.2, 0.5, 0.8)

ARCH_POWER = 2.6  # of the arch's curve: 2 is a parabola, more is flatter in front and straighter at the sides
OVERBITE_MM = 2.2
OVERJET_MM = 2.6
LOWER_EDGE_MM = (0.0, -OVERBITE_MM, OVERJET_MM)  # point between the lower incisors at their edge, jaws closed

Jaw = Literal["upper", "lower"]


@dataclass(frozen=True, eq=False)
class Points:
    """A densely sampled surface."""

    position: NDArray[np.float32]  # (N, 3)
    normal: NDArray[np.float32]  # (N, 3), unit length, outwards
    height: NDArray[np.float32]  # (N,), 0 at the edge of the tooth, 1 at its neck; 0 where it means nothing
    side: NDArray[np.float32]  # (N,), -1 to 1 across the tooth
    tooth: NDArray[np.int16]  # (N,), index along the jaw from the picture's left; -1 gum
    arch: NDArray[np.float32]  # (N,), arc length from the midline in mm, signed


@dataclass(frozen=True, eq=False)
class Arch:
    """A dental arch: a curve in the horizontal plane through the front faces of the teeth."""

    half_width_mm: float
    depth_mm: float
    front_z_mm: float
    edge_y_mm: float
    length: NDArray[np.float64] = field(init=False)  # (K,), signed arc length from the midline
    curve: NDArray[np.float64] = field(init=False)  # (K, 2), x and z

    def __post_init__(self) -> None:
        x = np.linspace(-self.half_width_mm, self.half_width_mm, 801)
        z = self.front_z_mm + self.depth_mm * np.abs(x / self.half_width_mm) ** ARCH_POWER
        length = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(z)))])
        object.__setattr__(self, "length", length - length[400])
        object.__setattr__(self, "curve", np.stack([x, z], axis=1))

    def at(self, length: NDArray[np.floating] | float) -> tuple[NDArray, NDArray, NDArray]:
        """Point (x, z), tangent and outward normal at signed arc lengths, each (..., 2)."""
        here = np.asarray(length, np.float64)
        x = np.interp(here, self.length, self.curve[:, 0])
        z = np.interp(here, self.length, self.curve[:, 1])
        ratio = np.abs(x / self.half_width_mm)
        slope = np.sign(x) * ARCH_POWER * self.depth_mm / self.half_width_mm * ratio ** (ARCH_POWER - 1)
        tangent = np.stack([np.ones_like(slope), slope], axis=-1) / np.sqrt(1 + slope**2)[..., None]
        outward = np.stack([tangent[..., 1], -tangent[..., 0]], axis=-1)
        return np.stack([x, z], axis=-1), tangent, outward


@dataclass(frozen=True, kw_only=True)
class Dentition:
    """One person's teeth."""

    width_scale: float = 1.0
    height_scale: float = 1.0
    arch_scale: float = 1.0
    irregularity: float = 1.0  # 0: perfectly regular; 1: an ordinary adult
    overbite_mm: float = OVERBITE_MM
    seed: int = 0

    @staticmethod
    def varied(seed: int) -> Dentition:
        """A person's variation about the mean, the same for the same seed."""
        noise = np.random.default_rng(seed).standard_normal(5).clip(-2, 2)
        return Dentition(
            width_scale=float(1 + 0.03 * noise[0]),
            height_scale=float(1 + 0.05 * noise[1]),
            arch_scale=float(1 + 0.03 * noise[2]),
            irregularity=float(1 + 0.3 * noise[3]),
            overbite_mm=float(OVERBITE_MM + 0.5 * noise[4]),
            seed=seed,
        )

    def arch(self, jaw: Jaw) -> Arch:
        scale = self.arch_scale
        if jaw == "upper":
            return Arch(31.5 * scale, 50.0 * scale, 0.0, 0.0)
        return Arch(29.0 * scale, 48.0 * scale, OVERJET_MM, -self.overbite_mm)

    def wall(self, jaw: Jaw) -> NDArray[np.float64]:
        """Curve (K, 2) through the front of the teeth: x and z."""
        return self.arch(jaw).curve[::8] + np.array([0.0, 0.8])

    def teeth(self, jaw: Jaw, samples_per_mm: float) -> Points:
        """The crowns of one jaw, lower ones with the jaws closed, sampled for drawing at `samples_per_mm`."""
        crowns = UPPER_CROWNS if jaw == "upper" else LOWER_CROWNS
        rises = UPPER_EDGE_RISE if jaw == "upper" else LOWER_EDGE_RISE
        towards_gum = -1.0 if jaw == "upper" else 1.0
        arch = self.arch(jaw)
        rng = np.random.default_rng([self.seed, jaw == "upper"])
        pieces = []
        for side in (-1, 1):
            start = 0.04
            for number, (crown, rise, kind) in enumerate(zip(crowns, rises, KINDS, strict=True)):
                wobble = rng.standard_normal(4).clip(-2, 2) * self.irregularity
                width = crown[0] * self.width_scale * (1 + 0.015 * wobble[0])
                tooth = _crown(kind, jaw, width, crown[1] * self.height_scale, crown[2], side, samples_per_mm)
                index = len(crowns) - 1 - number if side < 0 else len(crowns) + number
                centre = side * (start + width / 2)
                edge_y = arch.edge_y_mm + towards_gum * (rise + 0.15 * wobble[1])
                pieces.append(
                    _place(tooth, arch, centre, edge_y, towards_gum, 0.22 * wobble[2], 0.045 * wobble[3], index)
                )
                start += width + 0.03
        return join(pieces)

    def gum(self, jaw: Jaw, samples_per_mm: float) -> Points:
        """The band of gum that the crowns grow from."""
        crowns = UPPER_CROWNS if jaw == "upper" else LOWER_CROWNS
        towards_gum = -1.0 if jaw == "upper" else 1.0
        arch = self.arch(jaw)
        reach = sum(crown[0] for crown in crowns) * self.width_scale
        along = np.arange(-reach, reach, 0.8 / samples_per_mm)
        up = np.arange(0.0, 14.0, 0.8 / samples_per_mm)
        s, h = np.meshgrid(along, up)
        ends = np.cumsum([crown[0] * self.width_scale for crown in crowns])
        tooth = np.searchsorted(ends, np.abs(s)).clip(0, len(crowns) - 1)
        starts = np.concatenate([[0.0], ends[:-1]])
        across = ((np.abs(s) - starts[tooth]) / (ends - starts)[tooth] * 2 - 1).clip(-1, 1)
        crown_height = np.array([crown[1] for crown in crowns])[tooth] * self.height_scale
        margin = crown_height * (1 - 0.42 * np.abs(across) ** 3) * 0.97  # papillae reach down between the teeth
        point, _, outward = arch.at(s)
        bulge = 0.5 - 0.9 * np.exp(-h / 1.2) - 0.05 * h
        xz = point + outward * bulge[..., None]
        y = arch.edge_y_mm + towards_gum * (margin + h)
        position = np.stack([xz[..., 0], y, xz[..., 1]], axis=-1)
        normal = np.stack([outward[..., 0], np.full_like(s, -0.15 * towards_gum), outward[..., 1]], axis=-1)
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
        count = s.size
        return Points(
            position.reshape(-1, 3).astype(np.float32),
            normal.reshape(-1, 3).astype(np.float32),
            (h / 14.0).reshape(-1).astype(np.float32),
            across.reshape(-1).astype(np.float32),
            np.full(count, -1, np.int16),
            s.reshape(-1).astype(np.float32),
        )


def join(pieces: list[Points]) -> Points:
    """All points of several surfaces."""
    names = ("position", "normal", "height", "side", "tooth", "arch")
    return Points(*(np.concatenate([getattr(piece, name) for piece in pieces]) for name in names))


@dataclass(frozen=True, eq=False)
class _Crown:
    """A crown in its own frame: across (mesial < 0), from edge to neck, outward; grids (V, U)."""

    across: NDArray[np.float64]
    up: NDArray[np.float64]
    out: NDArray[np.float64]
    normal: NDArray[np.float64]  # (V, U, 3) in the same axes
    height: NDArray[np.float64]
    side: NDArray[np.float64]


def _crown(kind: str, jaw: Jaw, width: float, height: float, depth: float, side: int, samples_per_mm: float) -> list:
    """Front and back surface of one crown; `side` says where mesial is."""
    num_across = max(8, int(width * samples_per_mm * 1.25))
    num_up = max(8, int(height * samples_per_mm * 1.25))
    u = np.sin(np.linspace(-np.pi / 2, np.pi / 2, num_across)) * 0.75 + np.linspace(-1, 1, num_across) * 0.25
    t = np.linspace(0, 1, num_up) ** 1.3
    uu, tt = np.meshgrid(u, t)
    mesial = uu * -side  # > 0 towards the midline
    half = 0.5 * width * _outline(kind, jaw, tt)
    rise = _edge(kind, jaw, mesial, width)
    up = rise + tt * (height - rise)
    surfaces = []
    for front in (True, False):
        out = _labial(kind, jaw, uu, tt, depth) if front else _lingual(kind, uu, tt, depth)
        # Round both surfaces into each other at the edge and at the sides.
        edge_mm = np.clip((up - rise) / (0.9 if kind in ("incisor", "canine") else 2.2), 0, 1)
        round_edge = np.sqrt(np.clip(1 - (1 - edge_mm) ** 2, 0, 1))
        middle = _edge_depth(kind, depth)
        out = middle + (out - middle) * (0.25 + 0.75 * round_edge if front else round_edge)
        across = uu * half
        surfaces.append(_with_normals(across, up, out, tt, uu, front))
    return surfaces


def _outline(kind: str, jaw: Jaw, t: NDArray) -> NDArray:
    """Half width relative to the widest, from edge (0) to neck (1)."""
    if kind == "incisor":
        contact, neck = (0.18, 0.74) if jaw == "upper" else (0.06, 0.68)
    elif kind == "canine":
        contact, neck = 0.32, 0.72
    else:
        contact, neck = 0.3, 0.74 if kind == "premolar" else 0.84
    below = 1 - 0.05 * np.clip((contact - t) / contact, 0, 1) ** 2
    above = 1 - (1 - neck) * np.clip((t - contact) / (1 - contact), 0, 1) ** 1.5
    return np.where(t < contact, below, above)


def _edge(kind: str, jaw: Jaw, mesial: NDArray, width: float) -> NDArray:
    """Height of the edge or of the cusp's slope above the tip, in millimetres; `mesial` is +1 at the midline side."""
    distal_corner = np.clip((-mesial - 0.55) / 0.45, 0, 1) ** 2
    mesial_corner = np.clip((mesial - 0.72) / 0.28, 0, 1) ** 2
    if kind == "incisor":
        corner = (1.5, 0.7) if jaw == "upper" else (0.7, 0.5)
        return corner[0] * distal_corner + corner[1] * mesial_corner + 0.12 * mesial**2
    if kind == "canine":
        tip = np.abs(mesial - 0.08)
        return 0.26 * width * (np.sqrt(tip**2 + 0.02) - 0.14) + 0.9 * distal_corner + 0.5 * mesial_corner
    if kind == "premolar":
        return 0.24 * width * (np.sqrt(mesial**2 + 0.03) - 0.17) + 0.8 * (distal_corner + mesial_corner)
    cusps = 0.35 * (1 - np.cos(2 * np.pi * (mesial + 0.5))) * 0.5 * 2.2
    return 0.6 - 0.6 * np.cos(2 * np.pi * mesial) * 0.5 + 0.2 * cusps + 0.9 * (distal_corner + mesial_corner)


def _edge_depth(kind: str, depth: float) -> float:
    """Where the edge lies, behind the frontmost bulge, in millimetres (negative is inwards)."""
    return {"incisor": -1.3, "canine": -1.8, "premolar": -0.42 * depth, "molar": -0.45 * depth}[kind]


def _labial(kind: str, jaw: Jaw, u: NDArray, t: NDArray, depth: float) -> NDArray:
    """Outward offset of the outer surface: a gentle bulge near the neck, rounding back at both sides."""
    forward = {"incisor": 0.9, "canine": 1.2, "premolar": 1.1, "molar": 0.9}[kind]
    profile = -forward * np.clip(1 - t / 0.7, 0, 1) ** 1.7 - 0.9 * np.clip((t - 0.75) / 0.25, 0, 1) ** 2
    back = (0.26 if kind == "incisor" else 0.33) * depth
    power = 3.0 if kind == "incisor" else 2.4
    ridges = 0.08 * np.cos(3 * np.pi * u) * np.clip(1 - t * 1.2, 0, 1) if kind == "incisor" else 0.0
    return profile - back * np.abs(u) ** power + ridges


def _lingual(kind: str, u: NDArray, t: NDArray, depth: float) -> NDArray:
    """Outward offset of the inner surface (negative)."""
    thickness = 2.2 + (depth - 2.2) * t**1.4 if kind in ("incisor", "canine") else depth * (0.92 + 0.08 * t)
    return -thickness + 0.3 * thickness * np.abs(u) ** 2.4


def _with_normals(across: NDArray, up: NDArray, out: NDArray, t: NDArray, u: NDArray, front: bool) -> _Crown:
    position = np.stack([across, up, out], axis=-1)
    normal = np.cross(np.gradient(position, axis=1), np.gradient(position, axis=0))
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)
    return _Crown(across, up, out, normal if front else -normal, t, u)


def _place(
    surfaces: list[_Crown],
    arch: Arch,
    centre: float,
    edge_y: float,
    towards_gum: float,
    shift_mm: float,
    turn_rad: float,
    index: int,
) -> Points:
    """Moves a crown to its place on the arch."""
    point, tangent, outward = arch.at(centre)
    cos, sin = np.cos(turn_rad), np.sin(turn_rad)
    tangent, outward = cos * tangent + sin * outward, cos * outward - sin * tangent
    pieces = []
    for crown in surfaces:
        tip = 0.10 * towards_gum  # crowns lean: edges stand further out than necks
        out = crown.out + shift_mm - crown.up * abs(tip)
        xz = point + crown.across[..., None] * tangent + out[..., None] * outward
        y = edge_y + towards_gum * crown.up
        normal_xz = crown.normal[..., 0:1] * tangent + crown.normal[..., 2:3] * outward
        normal = np.stack([normal_xz[..., 0], towards_gum * crown.normal[..., 1], normal_xz[..., 1]], axis=-1)
        position = np.stack([xz[..., 0], y, xz[..., 1]], axis=-1)
        count = y.size
        pieces.append(
            Points(
                position.reshape(-1, 3).astype(np.float32),
                normal.reshape(-1, 3).astype(np.float32),
                crown.height.reshape(-1).astype(np.float32),
                crown.side.reshape(-1).astype(np.float32),
                np.full(count, index, np.int16),
                (centre + crown.across).reshape(-1).astype(np.float32),
            )
        )
    return join(pieces)


def tongue(samples_per_mm: float) -> Points:
    """The tongue at rest with the jaws closed: its back and tip, as seen from the front."""
    num_across, num_along = int(50 * samples_per_mm * 1.3), int(56 * samples_per_mm * 1.3)
    u, v = np.meshgrid(np.linspace(-1, 1, num_across), np.linspace(0, 1, num_along))
    widening = np.clip(v / 0.5, 0, 1)
    half = 8.0 + 16.0 * np.sqrt(widening * (2 - widening))
    z = OVERJET_MM + 4.5 + 44.0 * v + 4.0 * u**2
    back = 3.0 - 8.5 * np.sin(np.clip(v / 0.8, 0, 1) * np.pi / 2) ** 1.1  # y of the middle line: tip low, back raised
    round_tip = 5.0 * np.clip(1 - v / 0.07, 0, 1) ** 2
    groove = 1.0 * np.exp(-((u / 0.14) ** 2)) * np.clip(v * 3, 0, 1)
    y = back + round_tip + groove + 6.0 * np.abs(u) ** 3.5
    position = np.stack([u * half, y, z], axis=-1)
    normal = np.cross(np.gradient(position, axis=1), np.gradient(position, axis=0))
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)
    normal *= np.where(normal[..., 1:2] > 0, -1, 1)
    count = u.size
    return Points(
        position.reshape(-1, 3).astype(np.float32),
        normal.reshape(-1, 3).astype(np.float32),
        v.reshape(-1).astype(np.float32),
        u.reshape(-1).astype(np.float32),
        np.zeros(count, np.int16),
        (u * half).reshape(-1).astype(np.float32),
    )


def tongue_wall() -> NDArray[np.float64]:
    """Curve (K, 2) that stands for the tongue when it is moved: x and z."""
    x = np.linspace(-30, 30, 61)
    return np.stack([x, 14 + 0.01 * x**2], axis=1)
