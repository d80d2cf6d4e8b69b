"""Measures an IF-MDM renderer on drawn people that it was not trained on, and makes contact sheets.

    python benchmarks/ifmdm_renderer.py WEIGHTS CACHE [--split test] [--codes encoder] [--sheet sheet.png] [--size 256]

CACHE holds folders made by `loquent.training.ifmdm_data --split test`. The photo is moved to the codes of the other
frames of the same person, either as the frames' exact landmarks say (steering.safetensors beside the weights), which is
what the motion transformer learns to write, or as the encoder reads them from the frames; what is drawn is compared with the frame itself, and its landmarks, as the embedded
landmarker sees them, with the exact ones. The person's exact frames go through the same landmarker for comparison.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from loquent.face import embedded
from loquent.face.topology import EYELIDS, LIPS
from loquent.models.ifmdm import Autoencoder
from loquent.models.ifmdm.drawing import DETAIL, PortraitDrawer, to_pixels, to_tensor
from loquent.models.ifmdm.weights import load_autoencoder
from loquent.training.ifmdm_batches import PairGroups
from loquent.training.ifmdm_data import STILL

LANDMARK_ROWS = (1, 4, 7, 10, 12)  # frames of a person whose landmarks are compared
SHEET_ROWS = (2, 5, 10)
GAPS = {"mouth": (13, 14), "left lids": (386, 374), "right lids": (159, 145)}


def psnr(first: NDArray, second: NDArray, where: NDArray | None = None) -> float:
    """Decibels between 8-bit pictures (H, W, 3), at pixels `where` (H, W)."""
    square = (first.astype(np.float32) - second) ** 2
    mean = float(square.mean() if where is None else square[where].mean())
    return 10 * np.log10(255**2 / max(mean, 1e-3))


def ssim(first: NDArray, second: NDArray) -> float:
    """Structural similarity of the grey pictures (Wang et al. 2004), gaussian window of deviation 1.5."""
    a, b = (cv2.cvtColor(x, cv2.COLOR_RGB2GRAY).astype(np.float32) for x in (first, second))

    def blur(x: NDArray) -> NDArray:
        return cv2.GaussianBlur(x, (11, 11), 1.5)

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    both = blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    share = (2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return float(share.mean())


def sharpness(picture: NDArray) -> float:
    """Mean size of the grey picture's Laplacian."""
    return float(np.abs(cv2.Laplacian(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.CV_32F)).mean())


def gaps(landmarks: NDArray) -> NDArray:
    """Openings of mouth and lids in interocular distances, (3,)."""
    unit = np.linalg.norm(landmarks[33, :2] - landmarks[263, :2])
    return np.array([np.linalg.norm(landmarks[a, :2] - landmarks[b, :2]) / unit for a, b in GAPS.values()])


def seen_landmarks(picture: NDArray, exact: NDArray) -> NDArray | None:
    """What the embedded landmarker sees, (478, 2); None where it finds no face near."""
    faces = embedded.find_landmarks(picture)
    middle = exact.mean(0)
    near = [f.landmarks[:, :2] for f in faces if np.linalg.norm(f.landmarks[:, :2].mean(0) - middle) < 60]
    return near[0] if near else None


class Codes:
    """Codes of a person's frames relative to the first."""

    def __init__(self, network: Autoencoder, steering: Path, kind: str) -> None:
        self.network = network
        self.steering = steering
        self.basis = load_file(steering)["basis"].numpy()
        self.kind = kind

    @torch.no_grad()
    def of(self, person: dict[str, NDArray]) -> torch.Tensor:
        """(T, M)."""
        if self.kind == "encoder":
            photo = to_tensor(person["frames"][0])
            return torch.cat([self.network.motion_between(photo, to_tensor(frame)) for frame in person["frames"]])
        away = (person["landmarks"] - person["landmarks"][:1]) * (2 / person["frames"].shape[1])
        return torch.from_numpy(np.tanh(away.reshape(len(away), -1) @ self.basis))


def photo_landmarks(person: dict[str, NDArray]) -> NDArray[np.float32]:
    """(478, 3), pixels."""
    return np.column_stack([person["landmarks"][0], person["depth"]])


def measure_person(
    drawer: PortraitDrawer, codes_of: Codes, person: dict[str, NDArray], table: dict[str, list]
) -> NDArray:
    """Adds one person's numbers to the table; returns what was drawn, (T, 256, 256, 3)."""
    frames = person["frames"]
    with torch.no_grad():
        codes = codes_of.of(person)
        portrait = drawer.read(to_tensor(frames[0]), photo_landmarks(person))
        drawn = np.concatenate([to_pixels(drawer.draw(portrait, code[None])) for code in codes])
    kinds = np.stack([cv2.resize(k, frames.shape[1:3], interpolation=cv2.INTER_NEAREST) for k in person["kinds"]])
    table["codes"].append(Codes(codes_of.network, codes_of.steering, "encoder").of(person).numpy())
    for row in range(1, len(frames)):
        points = person["landmarks"][row]
        low, high = points[list(LIPS)].min(0).astype(int) - 8, points[list(LIPS)].max(0).astype(int) + 9
        mouth = np.zeros(frames.shape[1:3], bool)
        mouth[max(0, low[1]) : high[1], max(0, low[0]) : high[0]] = True
        table["psnr"].append(psnr(drawn[row], frames[row]))
        table["psnr photo"].append(psnr(frames[0], frames[row]))
        table["psnr mouth"].append(psnr(drawn[row], frames[row], mouth))
        table["psnr mouth photo"].append(psnr(frames[0], frames[row], mouth))
        table["ssim"].append(ssim(drawn[row], frames[row]))
        table["ssim photo"].append(ssim(frames[0], frames[row]))
        table["sharpness"].append(sharpness(drawn[row]) / sharpness(frames[row]))
        still = (kinds[row] == STILL) & (kinds[0] == STILL)
        if still.sum() > 500:
            away = np.abs(drawn[row].astype(int) - frames[0])[still]
            table["still mean"].append(away.mean())
            table["still unchanged"].append((away == 0).all(-1).mean())
    for row in [row for row in LANDMARK_ROWS if row < len(frames)]:
        exact = person["landmarks"][row]
        unit = np.linalg.norm(exact[33] - exact[263])
        ours, own = seen_landmarks(drawn[row], exact), seen_landmarks(frames[row], exact)
        table["found"].append(ours is not None)
        if ours is None or own is None:
            continue
        fine = [*LIPS, *EYELIDS]
        for name, seen in (("drawn", ours), ("frame", own), ("photo", person["landmarks"][0])):
            away = np.linalg.norm(seen - exact, axis=1)[:468] / unit
            table[f"landmarks {name}"].append(100 * away.mean())
            table[f"fine {name}"].append(100 * away[fine].mean())
        table["gaps"].append(np.stack([gaps(ours), gaps(own), gaps(exact)]))
    return drawn


def told_by_codes(codes: list[NDArray], wanted: list[NDArray]) -> NDArray:
    """Share of the variance of `wanted` (people x (T, K)) that a linear map of the codes tells, within people, on
    people that the map was not fitted on."""
    x = [c - c.mean(0) for c in codes]
    y = [w - w.mean(0) for w in wanted]
    half = len(x) // 2
    fit_x, fit_y, test_x, test_y = (np.concatenate(part) for part in (x[:half], y[:half], x[half:], y[half:]))
    solution = np.linalg.solve(fit_x.T @ fit_x + 1e-3 * np.eye(fit_x.shape[1]), fit_x.T @ fit_y)
    return 1 - ((test_y - test_x @ solution) ** 2).sum(0) / (test_y**2).sum(0)


def report(table: dict[str, list], people: list[dict[str, NDArray]]) -> None:
    for name in [key for key in table if key not in ("codes", "gaps")]:
        print(f"{name:18} {np.mean(table[name]):8.3f}")
    openings = np.stack(table["gaps"])  # (N, 3, 3): drawn, frame, exact
    for number, name in enumerate(GAPS):
        drawn, frame, exact = openings[:, :, number].T
        print(f"{name:18} correlation {np.corrcoef(drawn, exact)[0, 1]:.3f} (frames {np.corrcoef(frame, exact)[0, 1]:.3f})"
              f", off by {np.abs(drawn - exact).mean():.4f} (frames {np.abs(frame - exact).mean():.4f})")  # fmt: skip
    openings = [np.stack([gaps(points) for points in person["landmarks"]]) for person in people]
    poses = [person["motion"][:, 52:55] for person in people]
    told = told_by_codes(table["codes"], [np.hstack(pair) for pair in zip(openings, poses, strict=True)])
    names = [*GAPS, "pitch", "yaw", "roll"]
    print("told by codes      " + ", ".join(f"{name} {value:.2f}" for name, value in zip(names, told, strict=True)))


def sheet(drawer: PortraitDrawer, codes_of: Codes, people: list[dict[str, NDArray]], size: int) -> NDArray[np.uint8]:
    """A row a person: photo, then frame and drawn picture in turn; at the end the next person's frame and its motion."""

    def large(pixels: NDArray) -> NDArray[np.uint8]:
        return np.asarray(cv2.resize(pixels, (size, size), interpolation=cv2.INTER_LANCZOS4), np.uint8)

    rows = []
    for number, person in enumerate(people):
        other = people[(number + 1) % len(people)]
        zoom = size / person["frames"].shape[1]
        middle = np.array([0.5, 0.5, 0])
        landmarks = (photo_landmarks(person) + middle) * zoom - middle
        portrait = drawer.read(to_tensor(large(person["frames"][0])), landmarks)
        codes, driving = codes_of.of(person), codes_of.of(other)
        tiles = [large(person["frames"][0])]
        for row in SHEET_ROWS:
            tiles += [large(person["frames"][row]), to_pixels(drawer.draw(portrait, codes[row : row + 1]))[0]]
        row = SHEET_ROWS[1]
        tiles += [large(other["frames"][row]), to_pixels(drawer.draw(portrait, driving[row : row + 1]))[0]]
        rows.append(np.hstack(tiles))
    return np.vstack(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--codes", choices=("landmarks", "encoder"), default="landmarks")
    parser.add_argument("--people", type=int, default=1000)
    parser.add_argument("--sheet", type=Path, help="picture of twelve people instead of the measurements")
    parser.add_argument("--size", type=int, default=256)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    network = load_autoencoder(arguments.weights)
    drawer = PortraitDrawer(network, DETAIL)
    codes_of = Codes(network, arguments.weights / "steering.safetensors", arguments.codes)
    groups = PairGroups(arguments.cache, 1, arguments.split, layered=True)
    if arguments.sheet:
        chosen = np.linspace(0, len(groups) - 1, 12).astype(int)
        picture = sheet(drawer, codes_of, [groups.person(int(n)) for n in chosen], arguments.size)
        cv2.imwrite(str(arguments.sheet), picture[..., ::-1])
        return
    table: dict[str, list] = defaultdict(list)
    people = [groups.person(n) for n in range(min(arguments.people, len(groups)))]
    for person in people:
        measure_person(drawer, codes_of, person, table)
    report(table, people)


if __name__ == "__main__":
    main()
