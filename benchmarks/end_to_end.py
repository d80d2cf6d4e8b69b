"""Speed and memory of the whole path: an example portrait of 512x512 speaks for 10 s and for 10 min.

    python benchmarks/end_to_end.py [--seconds 10 600] [--repeat 3] [--systems starter ifmdm moditalker:renderer=mesh]

Systems take turns, so that a change of the machine's load meets all of them; each draws at its own size. Each measurement is a process of its own. Start-up is what happens before the photo is read: starting Python,
importing, loading weights. The real-time factor is the rest, divided by the video's length: below 1 is faster than real
time. Memory is the peak of the process's resident set; parts of the recording that are mapped from disk count too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "src/loquent/examples"


def measure(system: str, speech: Path, output: Path) -> dict[str, float]:
    """Runs the path in this process; the system may be followed by options, NAME:OPTION=VALUE."""
    from loquent import TalkingHead
    from loquent.options import split_options

    name, *options = system.split(":")
    head = TalkingHead.from_pretrained(name, options=split_options(options))
    loaded_s = time.perf_counter()
    clip = head.animate(EXAMPLES / "portrait_a.jpg", speech, output=output)
    finished_s = time.perf_counter()
    return {
        "video_s": clip.duration_s,
        "width_px": clip.size_px[0],
        "loaded_s": loaded_s,
        "work_s": finished_s - loaded_s,
        "cpu_s": time.process_time(),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def measure_in_a_process(system: str, speech: Path, output: Path) -> dict[str, float]:
    """As `measure`, with the seconds from starting the process until the weights are loaded as `startup_s`."""
    started_s = time.perf_counter()  # the same clock in every process of the machine
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does
    command = [sys.executable, __file__, "--child", system, str(speech), str(output)]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result | {"startup_s": result.pop("loaded_s") - started_s}


def write_speech(path: Path, duration_s: float) -> None:
    """The example recording, repeated to `duration_s`."""
    import numpy as np
    import soundfile

    samples, rate_hz = soundfile.read(EXAMPLES / "speech.flac", dtype="float32")
    soundfile.write(path, np.resize(samples, round(duration_s * rate_hz)), rate_hz)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[10, 600])
    parser.add_argument("--repeat", type=int, default=3, help="the fastest of so many runs counts, up to a minute's")
    parser.add_argument("--systems", nargs="+", default=["starter"])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        system, speech, output = arguments.child
        print(json.dumps(measure(system, Path(speech), Path(output))))
        return
    print("| system | width | speech s | start-up s | work s | real-time factor | processor s | peak memory MB |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for seconds in arguments.seconds:
            speech = Path(folder, "speech.wav")
            write_speech(speech, seconds)
            runs: dict[str, list[dict[str, float]]] = {system: [] for system in arguments.systems}
            for _ in range(arguments.repeat if seconds <= 60 else 1):
                for system, measured in runs.items():
                    measured.append(measure_in_a_process(system, speech, Path(folder, "talk.mp4")))
            for system, measured in runs.items():
                best = min(measured, key=lambda run: run["work_s"])
                print(
                    f"| {system} | {best['width_px']:.0f} | {seconds:g} | {best['startup_s']:.1f} | {best['work_s']:.1f}"
                    f" | {best['work_s'] / best['video_s']:.2f} | {best['cpu_s']:.1f} | {best['peak_mb']:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
