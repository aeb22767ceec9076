"""The commands for the device: `hfld export` and `hfld edge`.

The packages of the extra "edge" are imported inside the functions, because the other commands do
not require them.
"""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from typer import Option

from hfld_lite.app.console import Role, RunFolder, console, print_rows
from hfld_lite.app.output import Output, check_output, write_output
from hfld_lite.app.runs import load_run
from hfld_lite.errors import HfldError


@contextmanager
def _edge_packages() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("onnx", "onnxscript", "onnxruntime"):
            raise
        raise HfldError(
            f"The package {error.name} is missing; install the extra edge, for instance by "
            "`make setup` or, in the project's folder, pip install -c constraints.txt -e '.[edge]'."
        ) from error


def export(
    run: RunFolder,
    out: Annotated[Path, Option(help="Folder for ROLE.onnx and predict.py.")] = Path("device"),
    format: Annotated[
        str,
        Option(
            help="onnx (float32), onnx-int8 (calibrated on training recordings) or "
            "onnx-int8-dynamic (for comparison; slower, and needs a recent ONNX Runtime)."
        ),
    ] = "onnx",
    raw: Annotated[
        bool, Option("--raw", help="Preprocessing inside the graph: raw samples go in.")
    ] = False,
    role: Role = "student",
    miss_rate: Annotated[
        float | None,
        Option(help="Promised share of defective recordings called sound; by default the run's."),
    ] = None,
    data: Annotated[
        Path | None,
        Option(
            help="Where the run's recordings are now, if they were moved; eight bits and "
            "--miss-rate need them."
        ),
    ] = None,
    opset: Annotated[int, Option(help="Version of ONNX's operators, 18 to 23.")] = 18,
) -> None:
    """Write a network for a device, with predict.py, which needs only numpy and onnxruntime.

    The program reads WAV files: PCM of 8 to 32 bits and float. It cuts them as in training.

    The file is compared with torch before it is written. In eight bits, the accuracy on the run's
    test part before and after quantisation is printed.
    """
    with _edge_packages():
        from hfld_lite.app.export import export_run
    written = export_run(
        load_run(run),
        out,
        format,
        role=role,
        raw=raw,
        opset=opset,
        miss_rate=miss_rate,
        data=data,
    )
    console.print(f"{written.model}: {written.bytes:,} bytes, {format}, opset {opset}")
    console.print(
        f"Largest difference of a probability from torch's: {written.difference:.1e}, on "
        f"{written.compared} recordings"
    )
    if written.before:
        for name, found in (("before", written.before), ("after", written.after)):
            console.print(
                f"Test accuracy {name} quantisation: {found.accuracy:.1%} (95 % interval "
                f"{found.low:.1%} to {found.high:.1%}, {found.count} recordings)"
            )
        difference, low, high = (100 * x for x in written.change)
        console.print(
            f"Difference: {difference:+.2f} points (paired 95 % interval {low:+.2f} to {high:+.2f})"
        )
    if written.trust is None:
        console.print('There is no validation part, so the program never answers "unsure".')
    else:
        console.print(written.trust.promise)
    console.print(f"Try it: python {written.program} FILE.wav")
    console.print(written.reads)


def edge(
    run: RunFolder,
    role: Role = "student",
    device: Annotated[
        str | None,
        Option(help="Print only the verdict for this device, such as STM32F411RE."),
    ] = None,
    precision: Annotated[str, Option(help="For --device: fp32, fp16 or int8.")] = "int8",
    html: Annotated[Path | None, Option(help="Also write a page with figures.")] = None,
    threads: Annotated[
        list[int], Option(min=1, help="Threads to measure on; may be given several times.")
    ] = (1, 2),
    runs: Annotated[int, Option(min=10, help="Timed runs.")] = 500,
    output: Output = None,
    quiet: Annotated[bool, Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Show what the networks cost on a device (bytes, operations, RAM, time) and where they fit."""
    check_output(output)
    with _edge_packages():
        from hfld_lite.app.costs_page import write_page
        from hfld_lite.edge import devices
        from hfld_lite.edge import summary as costs
    loaded = load_run(run)
    detector = loaded.detector
    if device is not None:
        network = detector.network(role)
        length = detector.inputs(costs.noise(1, detector.samples)).shape[1]
        on = devices.device(device)
        verdict = devices.fits(network, on, length, precision)
        write_output(output, [asdict(verdict) | {"fits": verdict.fits}])
        _print_verdict(verdict, role, devices.sizes_in_words(verdict))
        console.print(f"  figures of the device: {on.source}")
        if on.note:
            console.print(f"  note: {on.note}")
        return
    found = costs.measure(detector, role, threads=threads, runs=runs, progress=not quiet)
    names = ("networks", "parts", "counts", "times", "devices")
    each = [(name, getattr(found, name).to_dict("records")) for name in names]
    write_output(output, [{"table": name} | row for name, rows in each for row in rows])
    for title, (table, note) in costs.tables(found).items():
        console.print(f"\n{title}")
        shown = table.set_index("role").T.reset_index(names="") if "role" in table else table
        print_rows(list(shown.columns), shown.to_numpy().tolist())
        console.print(note)
    if html is not None:
        source = loaded.facts["source"]
        lead = f"{run}: {source[:1].lower()}{source[1:]}; preset {detector.recipe.name}."
        write_page(html, found, lead, shlex.join(["hfld", *sys.argv[1:]]))
        console.print(f"\nsee {html}")


def _print_verdict(verdict: object, role: str, sizes: str) -> None:
    """A verdict of `devices.fits`, a line for each limit, and where the sizes are from."""
    answer = "fits" if verdict.fits else "does NOT fit"
    console.print(f"The {role.replace('_', ' ')} in {verdict.precision} {answer} {verdict.device}")
    limits = (
        ("flash", verdict.flash_needed, verdict.flash_available, verdict.flash_fits, "bytes"),
        ("RAM", verdict.ram_needed, verdict.ram_available, verdict.ram_fits, "bytes"),
        ("MACs", verdict.macs, verdict.macs_limit, verdict.macs_fit, ""),
    )
    for name, need, limit, fits_, unit in limits:
        of = "needed, no limit" if limit is None else f"of {limit:,} {unit}".rstrip()
        console.print(f"  {name}: {'yes' if fits_ else 'NO'}, {need:,} {of}")
    program = verdict.sizes == "estimated" and verdict.core
    more = "; code, stack and runtime come on top" if program else ""
    console.print(f"  sizes: {sizes}{more}")
    if verdict.estimate_ms is not None:
        console.print(
            f"  time: about {verdict.estimate_ms:.3g} ms or more, an estimate: MACs over the data "
            "sheet's rate"
        )
