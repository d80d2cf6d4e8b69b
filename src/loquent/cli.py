"""The command line: arguments, printing and exit codes. What is done is done by `loquent.pipeline`.

Only light packages are imported at the top, so that help appears at once.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from loquent import __version__
from loquent.errors import LoquentError

if TYPE_CHECKING:
    from rich.console import Console

    from loquent.batch import Job, Sound
    from loquent.motion.control_track import ControlTrack
    from loquent.pipeline import Progress, TalkingHead, Work
    from loquent.types import Clip

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

# Small operations crawl on a busy machine when threads spin; must be set before torch and numpy are imported. All of
# numpy's products here are small, and torch's threads are its own.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

app = typer.Typer(
    help="One portrait photo and a speech recording become a video of that person speaking.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_FILES, _MOTION, _VIDEO, _FACE, _RUN = "Files", "Motion", "Video", "Face", "Running"
Emotion = Literal["anger", "contempt", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"]
FaceBackend = Literal["embedded", "mediapipe"]
Preset = Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow"]

InputsArgument = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="PHOTO SPEECH", help="A photo and a recording; of several, every photo speaks every recording."
    ),
]
EmotionOption = Annotated[Emotion, typer.Option(help="What the face expresses.", rich_help_panel=_MOTION)]
SeedOption = Annotated[int, typer.Option(help="The same seed gives the same video.", rich_help_panel=_MOTION)]
EmotionStrengthOption = Annotated[float, typer.Option(help="How strongly, 0 to 2.", rich_help_panel=_MOTION)]
AmountOption = Annotated[float, typer.Option(help="All movement but the lips', 0 to 2.", rich_help_panel=_MOTION)]
HeadOption = Annotated[float, typer.Option(help="Head movement, 0 to 2.", rich_help_panel=_MOTION)]
BrowsOption = Annotated[float, typer.Option(help="Brow movement, 0 to 2.", rich_help_panel=_MOTION)]
BlinksOption = Annotated[float, typer.Option(help="How often the eyes blink, 0 to 2.", rich_help_panel=_MOTION)]
LipsOption = Annotated[float, typer.Option(help="Lip movement, 0 to 2.", rich_help_panel=_MOTION)]
KeepExpressionOption = Annotated[
    float, typer.Option(help="How much of the photo's own expression stays, 0 to 1.", rich_help_panel=_MOTION)
]
ControlsOption = Annotated[
    Path | None,
    typer.Option(help="Control track (CSV or JSON): emotion, head, gaze, blinks and amounts over time.",
                 rich_help_panel=_MOTION, show_default=False),
]  # fmt: skip
StepsOption = Annotated[int, typer.Option(help="Steps of the sampler; more is slower.", rich_help_panel=_MOTION)]
GuidanceOption = Annotated[
    float | None,
    typer.Option(help="How closely to follow the speech, 1 to 10; the system's own if not given.",
                 rich_help_panel=_MOTION, show_default=False),
]  # fmt: skip
FaceOption = Annotated[
    int | None,
    typer.Option(min=0, help="Which face, counted from 0 at the picture's left; the largest if not given.",
                 rich_help_panel=_FACE, show_default=False),
]  # fmt: skip
FaceBackendOption = Annotated[
    FaceBackend, typer.Option(help="What finds the face; mediapipe is an extra.", rich_help_panel=_FACE)
]
FaceModelOption = Annotated[
    Path | None, typer.Option(help="MediaPipe's face_landmarker.task.", rich_help_panel=_FACE, show_default=False)
]
SystemOption = Annotated[
    str,
    typer.Option(help="starter, ifmdm, ifmdm-512, moditalker, moda (`loquent doctor` tells more), or a folder with weights.",
                 rich_help_panel=_RUN),
]  # fmt: skip
SystemOptions = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="NAME=VALUE", help="An option of this system alone; may be given several times.",
                 rich_help_panel=_RUN, show_default=False),
]  # fmt: skip
RendererOption = Annotated[
    str | None,
    typer.Option(help="What draws the face, for a system that leaves the choice, such as moditalker: video (its own) or mesh (sharper).",
                 rich_help_panel=_RUN, show_default=False),
]  # fmt: skip
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.", rich_help_panel=_RUN)]
TextOption = Annotated[
    str | None,
    typer.Option(help="Speak this text with espeak-ng instead of a recording.", rich_help_panel=_FILES,
                 show_default=False),
]  # fmt: skip
VoiceOption = Annotated[str, typer.Option(help="espeak-ng's voice for --text.", rich_help_panel=_FILES)]
_DRIVE = "Following a video"
DriveOption = Annotated[
    Path | None,
    typer.Option(help="Move like the person in this video, instead of generating motion; its sound is used where no"
                 " speech is given.", rich_help_panel=_DRIVE, show_default=False),
]  # fmt: skip
DriveModeOption = Annotated[
    Literal["relative", "absolute"],
    typer.Option(help="Whether what changes in the video is added to the photo's own pose and expression, or takes"
                 " their place.", rich_help_panel=_DRIVE),
]  # fmt: skip
DriveExpressionOption = Annotated[float, typer.Option(help="Brows, cheeks and nose, 0 to 2.", rich_help_panel=_DRIVE)]
DriveLipsOption = Annotated[float, typer.Option(help="Lips and jaw, 0 to 2.", rich_help_panel=_DRIVE)]
DriveEyesOption = Annotated[float, typer.Option(help="Lids and gaze, 0 to 2.", rich_help_panel=_DRIVE)]
DrivePoseOption = Annotated[float, typer.Option(help="The head, 0 to 2.", rich_help_panel=_DRIVE)]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.", rich_help_panel=_FILES)]


def _reported(command: Callable[..., None]) -> Callable[..., None]:
    """Turns errors raised on purpose into one sentence and exit code 2, and Ctrl-C into exit code 130."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except LoquentError as error:
            _stderr().print(f"[bold red]error:[/] {_escape(str(error))}", highlight=False, soft_wrap=True)
            raise typer.Exit(EXIT_ERROR) from None
        except KeyboardInterrupt:
            _stderr().print("stopped; nothing unfinished was left behind", highlight=False)
            raise typer.Exit(EXIT_INTERRUPTED) from None

    return run


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        print(f"loquent {__version__}")
        raise typer.Exit


@app.command()
@_reported
def animate(
    inputs: InputsArgument = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", rich_help_panel=_FILES, show_default=False,
                     help="Video to write: .mp4, .mov, .mkv, .webm, .gif, or without suffix a folder of PNG files;"
                     " for several videos, the folder to write into. PHOTO_SPEECH.mp4 if not given."),
    ] = None,
    text: TextOption = None,
    voice: VoiceOption = "en-us",
    motion: Annotated[
        Path | None,
        typer.Option(rich_help_panel=_FILES, show_default=False,
                     help="Draw this motion (ARKit CSV or JSON) as it is, instead of generating one;"
                     " speech is optional then."),
    ] = None,
    drive: DriveOption = None,
    drive_mode: DriveModeOption = "relative",
    drive_expression: DriveExpressionOption = 1.0,
    drive_lips: DriveLipsOption = 1.0,
    drive_eyes: DriveEyesOption = 1.0,
    drive_pose: DrivePoseOption = 1.0,
    manifest: Annotated[
        Path | None,
        typer.Option(rich_help_panel=_FILES, show_default=False,
                     help="CSV or JSON-lines file with one video a row: photo, speech, output, and any setting."
                     " Finished videos are skipped, so the same command continues where it stopped."),
    ] = None,
    overwrite: OverwriteOption = False,
    sidecar: Annotated[
        bool,
        typer.Option("--sidecar", help="Also write what made the video as OUTPUT.json.", rich_help_panel=_FILES),
    ] = False,
    seed: SeedOption = 42,
    emotion: EmotionOption = "neutral",
    emotion_strength: EmotionStrengthOption = 1.0,
    amount: AmountOption = 1.0,
    head: HeadOption = 1.0,
    brows: BrowsOption = 1.0,
    blinks: BlinksOption = 1.0,
    lips: LipsOption = 1.0,
    keep_expression: KeepExpressionOption = 0.5,
    controls: ControlsOption = None,
    steps: StepsOption = 10,
    guidance: GuidanceOption = None,
    fps: Annotated[
        str, typer.Option(help="Frames a second, such as 25, 29.97 or 30000/1001.", rich_help_panel=_VIDEO)
    ] = "25",
    size: Annotated[
        int | None,
        typer.Option(help="Longest side in pixels; the photo's own if not given.", rich_help_panel=_VIDEO,
                     show_default=False),
    ] = None,
    quality: Annotated[
        int, typer.Option(help="1 to 100; 80 shows no loss, 50 makes small files.", rich_help_panel=_VIDEO)
    ] = 80,
    preset: Annotated[
        Preset, typer.Option(help="The encoder's; slower ones make smaller files.", rich_help_panel=_VIDEO)
    ] = "veryfast",
    face: FaceOption = None,
    face_backend: FaceBackendOption = "embedded",
    face_model: FaceModelOption = None,
    system: SystemOption = "starter",
    option: SystemOptions = None,
    renderer: RendererOption = None,
    device: DeviceOption = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the inputs, print the plan, make nothing.", rich_help_panel=_RUN)
    ] = False,
) -> None:  # fmt: skip
    """Make a video of the person in PHOTO speaking SPEECH.

    Every video says in its metadata that it is generated. Animate only people who have agreed to it.
    """
    from loquent.batch import Job, jobs_from_arguments, jobs_from_manifest
    from loquent.driving import DriveSettings
    from loquent.media.video import parse_fps
    from loquent.options import split_options
    from loquent.pipeline import FaceSettings, VideoSettings
    from loquent.types import Controls

    template = Job(
        photo=Path(),
        sound=None,
        output=Path(),
        motion=motion,
        drive=drive,
        drive_settings=DriveSettings(
            mode=drive_mode, expression=drive_expression, lips=drive_lips, eyes=drive_eyes, pose=drive_pose
        ),
        controls=Controls(
            emotion=emotion, emotion_strength=emotion_strength, amount=amount, head=head, brows=brows, blinks=blinks,
            lips=lips, keep_expression=keep_expression, seed=seed, steps=steps, guidance=guidance,
            track=_read_track(controls),
        ),
        video=VideoSettings(fps=float(parse_fps(fps)), size=size, quality=quality, preset=preset),
        face=FaceSettings(face=face, backend=face_backend, model=face_model),
        options=split_options([*(option or []), *([f"renderer={renderer}"] if renderer else [])]),
    )  # fmt: skip
    if manifest is not None:
        if inputs or text is not None:
            raise LoquentError("--manifest names the photos and recordings itself; leave out the other inputs")
        jobs = jobs_from_manifest(manifest, template, output)
    else:
        photos, sounds = _split_inputs(inputs, text, voice)
        jobs = jobs_from_arguments(photos, sounds, output, template)
    is_batch = manifest is not None or len(jobs) > 1
    if is_batch and not dry_run:
        for folder in {job.output.parent for job in jobs}:
            folder.mkdir(parents=True, exist_ok=True)
    _animate_all(jobs, system, device, overwrite=overwrite, sidecar=sidecar, dry_run=dry_run)


@app.command()
@_reported
def export(
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PHOTO SPEECH", help="A recording, and if you like a photo, for that person's face."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write: .csv or .json.", rich_help_panel=_FILES)
    ] = Path("motion.csv"),
    text: TextOption = None,
    voice: VoiceOption = "en-us",
    overwrite: OverwriteOption = False,
    seed: SeedOption = 42,
    emotion: EmotionOption = "neutral",
    emotion_strength: EmotionStrengthOption = 1.0,
    amount: AmountOption = 1.0,
    head: HeadOption = 1.0,
    brows: BrowsOption = 1.0,
    blinks: BlinksOption = 1.0,
    lips: LipsOption = 1.0,
    controls: ControlsOption = None,
    steps: StepsOption = 10,
    guidance: GuidanceOption = None,
    fps: Annotated[str, typer.Option(help="Rows a second.", rich_help_panel=_MOTION)] = "25",
    face: FaceOption = None,
    face_backend: FaceBackendOption = "embedded",
    face_model: FaceModelOption = None,
    system: SystemOption = "starter",
    device: DeviceOption = "auto",
) -> None:
    """Write the face's motion for SPEECH as ARKit weights and head angles, to use in other tools."""
    from loquent.media.video import parse_fps
    from loquent.motion.export import check_motion_name, write_motion
    from loquent.pipeline import FaceSettings, TalkingHead
    from loquent.types import Controls

    photos, sounds = _split_inputs(inputs, text, voice)
    if len(photos) > 1 or len(sounds) != 1:
        raise LoquentError(f"export takes one recording and at most one photo; got {len(sounds)} and {len(photos)}")
    check_motion_name(output)
    _refuse_existing(output, overwrite)
    asked = Controls(
        emotion=emotion, emotion_strength=emotion_strength, amount=amount, head=head, brows=brows, blinks=blinks,
        lips=lips, seed=seed, steps=steps, guidance=guidance, track=_read_track(controls),
    )  # fmt: skip
    started = time.perf_counter()
    with _stderr().status("Making the motion"):
        talking_head = TalkingHead.from_pretrained(system, device)
        settings = FaceSettings(face=face, backend=face_backend, model=face_model)
        motion = talking_head.motion(
            sounds[0].source(), photos[0] if photos else None, asked, fps=float(parse_fps(fps)), face=settings
        )
        write_motion(motion, output)
    print(f"{output}: {len(motion)} rows at {fps} a second, in {time.perf_counter() - started:.1f} s")


@app.command()
@_reported
def fetch(
    system: Annotated[str, typer.Argument(metavar="SYSTEM", help="Whose officially released weights: moda.")],
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FOLDER", show_default=False,
                     help="Take the released files from this folder instead of the network."),
    ] = None,
    mirror: Annotated[
        str | None,
        typer.Option(metavar="URL", help="A mirror of the Hugging Face Hub.", show_default=False),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Convert again what was converted before.")] = False,
) -> None:  # fmt: skip
    """Fetch a system's officially released weights, check and convert them, so that --system SYSTEM can use them."""
    from loquent.fetch import find_release, prepare

    _log_to_stderr()
    release = find_release(system)
    if release.is_ready and not again and source is None:
        print(f"{system}: fetched and converted before, in {release.converted}; use it with --system {system}")
        return
    folder = prepare(release, source=source, mirror=mirror, again=again)
    print(f"{system}: ready in {folder}; use it with --system {system}")
    if release.downloads.is_dir():
        print(f"What was downloaded, {release.downloads}, is no longer needed and may be deleted.")


@app.command()
@_reported
def inspect(
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEO...", help="Videos, GIFs or folders of pictures.")],
) -> None:
    """Print what a video says about how it was made, as JSON."""
    import json

    from loquent import provenance

    for path in videos:
        found = provenance.read_statement(path)
        if found is None:
            raise LoquentError(f"{path}: holds no statement by loquent; it was made or changed by another program")
        print(json.dumps(found, indent=2, ensure_ascii=False))


@app.command()
@_reported
def evaluate(
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEO...", help="Videos of one face, with their speech.")],
    text: Annotated[str | None, typer.Option(help="The English words that are said.")] = None,
    text_file: Annotated[Path | None, typer.Option(help="A file with these words.")] = None,
    face_model: FaceModelOption = None,
) -> None:
    """Measure whether the lips follow the speech; needs the extras mediapipe and align."""
    from loquent.evaluation.report import evaluate_video, table

    if (text is None) == (text_file is None):
        raise LoquentError("evaluate wants the words that are said, as --text or as --text-file, and one of the two")
    words = text or ""
    if text_file is not None:
        try:
            words = text_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise LoquentError(f"{text_file}: cannot be read as text ({error})") from error
    print(table({video.stem: evaluate_video(video, words, face_model) for video in videos}))


@app.command()
@_reported
def train(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A recipe, as listed by --list.")] = None,
    list_recipes: Annotated[bool, typer.Option("--list", help="List the recipes and stop.")] = False,
    data: Annotated[
        Path | None, typer.Option(help="Folder to learn from.", rich_help_panel=_FILES, show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", rich_help_panel=_FILES, show_default=False,
                     help="Folder for checkpoint, weights, curves and samples; runs/NAME if not given."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Sizes and settings of the recipe; its first if not given.", show_default=False)
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="The preset debug: tiny, on made-up data, in seconds.")] = False,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of settings to change.", show_default=False)
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", show_default=False,
                     help="A setting to change, such as train.learning_rate=1e-4; may be repeated."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Same as --set train.steps=N.", show_default=False)] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Curves for TensorBoard too: OUTPUT/curves; of the extra train.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False,
    device: DeviceOption = "auto",
) -> None:  # fmt: skip
    """Train a network by one of the recipes of docs/training.md.

    For several graphics cards or machines: accelerate launch -m loquent train NAME ...
    """
    from loquent.training.recipes import RECIPES, plan_run, run_plan

    if list_recipes:
        for recipe, (_, title) in RECIPES.items():
            print(f"{recipe:32s} {title}")
        return
    if name is None:
        raise LoquentError(f"train wants the name of a recipe: {', '.join(RECIPES)}")
    if debug and preset not in (None, "debug"):
        raise LoquentError("--debug is a preset of its own; leave out --preset")
    output = output or Path("runs") / (f"{name}-debug" if debug else name)
    changed = [*(changes or []), *([f"train.steps={steps}"] if steps else [])]
    changed += ["train.tensorboard=true"] if tensorboard else []
    plan = plan_run(name, output, data, "debug" if debug else preset, config, changed, resume=resume)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    run_plan(plan, output, device)


@app.command()
def doctor() -> None:
    """Show versions, devices and models, and what is missing and how to get it."""
    from rich.console import Console
    from rich.table import Table

    from loquent.doctor import examine

    console = Console(highlight=False)
    findings = examine()
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    marks = {"ok": "[green]ok[/]", "optional": "[yellow]--[/]", "missing": "[bold red]!![/]"}
    for finding in findings:
        table.add_row(marks[finding.state], finding.name, _escape(finding.detail))
    console.print(table)
    missing = [finding.name for finding in findings if finding.state == "missing"]
    if missing:
        console.print(f"\nNot ready: {', '.join(missing)}.")
        raise typer.Exit(EXIT_ERROR)
    console.print("\nReady. What is marked -- is optional.")


def main() -> None:
    """Entry point of the `loquent` program."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))  # unwinds, so that nothing half-written stays
    app()


def _animate_all(jobs: list[Job], system: str, device: str, *, overwrite: bool, sidecar: bool, dry_run: bool) -> None:
    """Makes what is not finished yet; in a batch, one video's error does not stop the others."""
    from loquent.pipeline import TalkingHead
    from loquent.systems import find_system

    _log_to_stderr()
    system_name = find_system(system).name
    talking_head: TalkingHead | None = None
    failed = 0
    for number, job in enumerate(jobs, 1):
        try:
            if not overwrite and job.is_finished(system_name):
                print(f"{job.output}: finished before, from the same files and settings (--overwrite makes it again)")
                continue
            _refuse_existing(job.output, overwrite)
            if talking_head is None:
                with _stderr().status("Loading"):
                    talking_head = TalkingHead.from_pretrained(system, device, job.options)
            place = f"[{number}/{len(jobs)}] " if len(jobs) > 1 else ""
            _animate_one(talking_head, job, place, sidecar=sidecar, dry_run=dry_run)
        except LoquentError as error:
            if len(jobs) == 1:
                raise
            failed += 1
            _stderr().print(f"[bold red]error:[/] {_escape(f'{job.label}: {error}')}", highlight=False, soft_wrap=True)
    if failed:
        raise LoquentError(f"{failed} of {len(jobs)} videos were not made; the reasons are above")


def _animate_one(head: TalkingHead, job: Job, place: str, *, sidecar: bool, dry_run: bool) -> None:
    """Makes one video and prints the line that says where it is, or only the plan."""
    started = time.perf_counter()
    with _stderr().status(f"{place}Reading {job.label}"):
        source = job.sound.source() if job.sound is not None else None
        work = head.prepare(
            job.photo, source, job.controls, motion=job.motion, drive=job.drive, drive_settings=job.drive_settings,
            video=job.video, face=job.face,
        )  # fmt: skip
    if dry_run:
        _print_plan(head, job, work)
        return
    with _progress_bar(f"{place}{job.output.name}", work.video.fps) as progress:
        clip = head.run(work, job.output, sidecar=sidecar, progress=progress)
    print(_summary(clip, time.perf_counter() - started))


def _summary(clip: Clip, seconds: float) -> str:
    """The last line: where the file is, how long it took, and the real-time factor (below 1 is faster)."""
    return (
        f"{clip.path}: {clip.num_frames} frames of {clip.size_px[0]}x{clip.size_px[1]},"
        f" {clip.duration_s:.1f} s of video in {seconds:.1f} s, real-time factor {seconds / clip.duration_s:.2f}"
    )


def _print_plan(head: TalkingHead, job: Job, work: Work) -> None:
    import math

    from loquent.pipeline import open_writer

    portrait, controls = work.portrait, work.controls.as_dict()
    controls["guidance"] = "of the system" if controls["guidance"] is None else controls["guidance"]
    if (track := work.controls.track) is not None:
        controls["track"] = f"of {len(track.rows)} rows to {track.end_s:g} s"
    controls |= job.options
    size_px = head.system.make_renderer(portrait, work.video.size).size_px
    if job.output.parent.is_dir():  # a batch makes its folders
        open_writer(work, job.output, size_px)
    pitch, yaw, roll = (math.degrees(angle) for angle in portrait.pose_rad)
    left, top, right, bottom = portrait.face.box_px
    generated = f"{head.system.name} on {head.system.device}: " + ", ".join(f"{k} {v}" for k, v in controls.items())
    rows = {
        "photo": f"{job.photo}, {portrait.photo.width_px}x{portrait.photo.height_px}",
        "face": f"{right - left:.0f}x{bottom - top:.0f} px at ({left:.0f}, {top:.0f}), raised {pitch:+.0f}°,"
        f" turned {yaw:+.0f}°, tilted {roll:+.0f}°, found by {portrait.face.backend}",
        "speech": f"{work.speech.name}, {work.speech.duration_s:.2f} s" if work.speech else "none",
        "motion": f"from {job.motion or job.drive}" if job.motion or job.drive else generated,
        "video": f"{job.output}, {size_px[0]}x{size_px[1]}, {work.num_frames} frames at {work.video.fps:g} a second",
    }
    for name, value in rows.items():
        print(f"{name:>7}  {value}")


@contextmanager
def _progress_bar(title: str, fps: float) -> Iterator[Progress]:
    """A bar with frames, speed and time left; on the terminal only."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=_stderr(), transient=True, disable=not _stderr().is_terminal) as bar:
        task = bar.add_task(title, total=None, speed="")
        first_s: list[float] = []  # when the first frame was finished: what comes before is preparation

        def update(done: int, total: int) -> None:
            now_s = time.perf_counter()
            first_s[:] = first_s or [now_s]
            rate = (done - 1) / max(now_s - first_s[0], 1e-3)
            bar.update(task, completed=done, total=total, speed=f"{rate:.0f} frames/s, {rate / fps:.1f}x real time")

        yield update


def _split_inputs(inputs: list[Path] | None, text: str | None, voice: str) -> tuple[list[Path], list[Sound]]:
    from loquent.batch import Sound, split_inputs

    photos, recordings = split_inputs(inputs or [])
    if text is not None and recordings:
        raise LoquentError(f"--text and the recording {recordings[0]} were both given; leave one out")
    sounds = [Sound(path=path) for path in recordings]
    return photos, sounds if text is None else [Sound(text=text, voice=voice)]


def _read_track(path: Path | None) -> ControlTrack | None:
    from loquent.motion.control_track import ControlTrack

    return None if path is None else ControlTrack.read(path)


def _refuse_existing(output: Path, overwrite: bool) -> None:
    if output.exists() and not overwrite:
        raise LoquentError(f"{output} exists; choose another name, or add --overwrite to replace it")


def _log_to_stderr() -> None:
    from rich.logging import RichHandler

    handler = RichHandler(console=_stderr(), show_time=False, show_path=False, markup=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])


@functools.cache
def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
