"""Do the lips follow real speech that was never trained on? Renders videos and measures them.

    python benchmarks/lip_sync.py ../shared/data --out /tmp/lips

Speech: LJ Speech sentences 25 to 32 and an inaugural address, none of them in any training corpus. Portraits: the two
examples and portraits of the test split. Needs the extras `mediapipe` and `align`, and MediaPipe's model file.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import hashlib
import json
from pathlib import Path

from loquent import Controls, TalkingHead
from loquent.evaluation.lips import LipFigures, pool
from loquent.evaluation.report import evaluate_video, table

EXAMPLES = Path(__file__).parents[1] / "src/loquent/examples"
TRANSCRIPTS = Path(__file__).with_name("lj_transcripts.csv")  # words of a book of 1893, typed by hand
JFK = "and so my fellow americans ask not what your country can do for you ask what you can do for your country"
FIRST_HELD_OUT = 25


def held_out_speech(data: Path, transcripts: Path) -> dict[Path, str]:
    """Recording -> words. Sentences whose transcript is not in metadata.csv come from `transcripts`."""
    speech = {data / "speech/jfk.flac": JFK}
    rows: dict[str, str] = {}
    for source in (data / "speech/ljspeech/metadata.csv", transcripts):
        with open(source, encoding="utf-8") as file:
            for row in csv.reader(file, delimiter="|", quoting=csv.QUOTE_NONE):
                if row and row[-1]:
                    rows[row[0]] = row[-1]
    for name, words in sorted(rows.items()):
        path = data / f"speech/ljspeech/{name}.flac"
        if path.exists() and int(name.split("-")[1]) >= FIRST_HELD_OUT:
            speech[path] = words
    return speech


def test_portraits(data: Path, count: int) -> list[Path]:
    """Every so many portraits of the test split."""
    portraits = sorted((data / "portraits").glob("*.jpg"))
    held_out = [path for path in portraits if hashlib.sha1(path.stem.encode()).hexdigest()[-1] in "01"]
    return held_out[:: max(1, len(held_out) // count)][:count] if count else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--transcripts", type=Path, default=TRANSCRIPTS, help="words that metadata.csv lacks")
    parser.add_argument("--portraits", type=int, default=2, help="portraits of the test split, beside the examples")
    parser.add_argument(
        "--recordings", nargs="+", help="names of recordings, such as LJ001-0025; all where none is named"
    )
    parser.add_argument("--system", default="starter")
    parser.add_argument("--renderer", help="for a system that leaves the choice")
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    head = TalkingHead.from_pretrained(args.system, options={"renderer": args.renderer} if args.renderer else None)
    controls = Controls(seed=args.seed)
    by_portrait: dict[str, list[LipFigures]] = {}
    for photo in [*sorted(EXAMPLES.glob("*.jpg")), *test_portraits(args.data, args.portraits)]:
        for recording, words in held_out_speech(args.data, args.transcripts).items():
            if args.recordings and recording.stem not in args.recordings:
                continue
            video = args.out / f"{photo.stem}-{recording.stem}.mp4"
            if not video.exists():
                head.animate(photo, recording, controls, output=video)
            figures = evaluate_video(video, words)
            by_portrait.setdefault(photo.stem, []).append(figures)
            print(video.name, json.dumps(dataclasses.asdict(figures)), flush=True)
    pooled = {name: pool(items) for name, items in by_portrait.items()}
    print(table({**pooled, "all": pool([item for items in by_portrait.values() for item in items])}))


if __name__ == "__main__":
    main()
