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
from typing import TYPE_CHECKING, Annotated

from typer import Option

from hfld_lite.app.console import Role, RunFolder, console, print_rows
from hfld_lite.app.output import Output, check_output, write_output
from hfld_lite.app.runs import Run, load_run
from hfld_lite.errors import HfldError

if TYPE_CHECKING:
    from hfld_lite.edge.deploy import Export
    from hfld_lite.edge.firmware import Firmware

OPSET = 18
"""hfld_lite.edge.export.OPSET, which requires the extra "edge"."""


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
    out: Annotated[
        Path, Option(help="Folder for ROLE.onnx and predict.py, or for the C files.")
    ] = Path("device"),
    format: Annotated[
        str,
        Option(
            help="onnx (float32), onnx-int8 (calibrated on training recordings), "
            "onnx-int8-dynamic (for comparison; slower, and needs a recent ONNX Runtime), c (C99 "
            "for microcontrollers, in int8 and float32) or c-float32 (needs no recordings)."
        ),
    ] = "onnx",
    raw: Annotated[
        bool, Option("--raw", help="Preprocessing inside the graph: raw samples go in.")
    ] = False,
    role: Role = None,
    miss_rate: Annotated[
        float | None,
        Option(help="Promised share of defective recordings called sound; by default the run's."),
    ] = None,
    data: Annotated[
        Path | None,
        Option(
            help="Where the run's recordings are now, if they were moved; eight bits, c and "
            "--miss-rate need them."
        ),
    ] = None,
    opset: Annotated[int, Option(help="Version of ONNX's operators, 18 to 23.")] = OPSET,
) -> None:
    """Write a network for a device: an ONNX file with predict.py, or C.

    predict.py needs only numpy and onnxruntime. It reads WAV files, PCM of 8 to 32 bits and float,
    and cuts them as in training. The C needs no library: raw samples go in, and the answer comes
    out; beside it are a test, a Makefile, a README and a library for Arduino.

    Before writing, the answers are compared with torch's. In eight bits, the accuracy on the
    run's test part before and after quantisation is printed.
    """
    with _edge_packages():
        from hfld_lite.app.export import export_run, export_run_as_c
        from hfld_lite.edge import deploy
        from hfld_lite.edge.firmware import FORMATS
    if format not in (known := (*deploy.FORMATS, *FORMATS)):
        raise HfldError(f"format is {format!r}; choose one of {', '.join(known)}.")
    if format in FORMATS:
        if raw or opset != OPSET:
            given = "--raw" if raw else "--opset"
            why = "C always reads raw samples" if raw else "C has no opset"
            raise HfldError(f"{given} is for ONNX files; {why}: leave it out.")
        loaded = load_run(run)
        role = role or loaded.detector.answering
        firmware = export_run_as_c(
            loaded, out, format, role=role, miss_rate=miss_rate, data=data, progress=True
        )
        _print_firmware(firmware, loaded, role, run)
        return
    loaded = load_run(run)
    role = role or loaded.detector.answering
    written = export_run(
        loaded,
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
    _print_change(written)
    if loaded.promise:
        console.print(loaded.promise)
    console.print(f"Try it: python {written.program} FILE.wav")
    console.print(written.reads)


def _print_change(written: "Export | Firmware") -> None:
    """Accuracy before and after quantisation, and what "unsure" promises."""
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


def _print_firmware(written: "Firmware", run: Run, role: str, folder: Path) -> None:
    from hfld_lite.edge.devices import needs, too_large
    from hfld_lite.edge.firmware import input_length

    for precision in written.precisions:
        console.print(
            f"{precision}: {written.constants[precision]:,} bytes of weights and tables, "
            f"{written.memory[precision]:,} of static memory; code comes on top"
        )
    console.print(
        f"Largest difference of a probability of the float32 operations from torch's: "
        f"{written.difference:.1e}, on {written.compared} recordings"
    )
    _print_change(written)
    if run.promise:
        console.print(run.promise)
    for note in written.notes:
        console.print(f"note: {note}")
    network, length = run.detector.network(role), input_length(run.detector)
    precision = {"float32": "fp32"}.get(written.precisions[0], written.precisions[0])
    if said := too_large(needs(network, length, precision), role):
        console.print(f"note: {said}")
    console.print(f"Try it: make -C {written.folder} check   (see {written.folder}/README.md)")
    option = "" if role == "student" else f" --role {role}"
    console.print(f"Run it on an emulated chip: hfld edge {folder}{option} --on cortex-m4")


def edge(
    run: RunFolder,
    role: Role = None,
    on: Annotated[
        list[str] | None,
        Option(
            help="Run the test recordings on this emulated core, m0, m3, m4, m7, m33 or m55; may "
            "be given several times."
        ),
    ] = None,
    recordings: Annotated[
        int, Option(min=0, help="For --on: recordings of the test part that are run; 0 for all.")
    ] = 200,
    data: Annotated[
        Path | None,
        Option(help="For --on: where the run's recordings are now, if they were moved."),
    ] = None,
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
    """Show what the networks cost on a device (bytes, operations, RAM, time) and where they fit.

    With --on, the network is exported as C, linked for a Cortex-M, and its test recordings are
    run in QEMU. The sizes of that program then stand in place of the estimates.
    """
    check_output(output)
    with _edge_packages():
        from hfld_lite.app.costs_page import write_page
        from hfld_lite.app.on_chip import linked_sizes
        from hfld_lite.edge import devices
        from hfld_lite.edge import summary as costs
    loaded = load_run(run)
    detector = loaded.detector
    role = role or detector.answering
    if on and device is not None:
        raise HfldError(
            "--on and --device do not go together; run --on first: --device then uses its sizes."
        )
    if on:
        _edge_on_chips(loaded, on, role, recordings, data, output, not quiet)
        return
    linked = linked_sizes(loaded, role)
    if device is not None:
        network = detector.network(role)
        length = detector.inputs(costs.noise(1, detector.samples)).shape[1]
        chosen = devices.device(device)
        verdict = devices.fits(network, chosen, length, precision, linked=linked)
        write_output(output, [asdict(verdict) | {"fits": verdict.fits}])
        _print_verdict(verdict, role, devices.sizes_in_words(verdict))
        console.print(f"  figures of the device: {chosen.source}")
        if chosen.note:
            console.print(f"  note: {chosen.note}")
        return
    found = costs.measure(
        detector, role, threads=threads, runs=runs, linked=linked, progress=not quiet
    )
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


def _edge_on_chips(
    run: Run,
    cores: list[str],
    role: str,
    most: int,
    data: Path | None,
    output: Path | None,
    progress: bool,
) -> None:
    """Run on each core, and print a table of all, and what fits now."""
    from hfld_lite.app.on_chip import linked_sizes, run_on_chips
    from hfld_lite.edge import devices
    from hfld_lite.edge.firmware import input_length
    from hfld_lite.edge.summary import chip_tables, device_table

    found = run_on_chips(run, cores, role, most=most, data=data, progress=progress)
    rows = [
        {"core": name, "machine": each.machine} | row
        for name, each in found.items()
        for row in each.table.to_dict("records")
    ]
    parts = [
        {"core": name, "precision": precision} | part
        for name, each in found.items()
        for precision, linked in each.linked.items()
        for part in linked.sizes_by_part()
    ]
    write_output(
        output, [{"table": "chips"} | r for r in rows] + [{"table": "parts"} | r for r in parts]
    )
    first = next(iter(found.values()))
    console.print(
        f"The {role.replace('_', ' ')} in C on {first.recordings} of {first.of} test recordings"
    )
    for title, (table, note) in chip_tables(rows, parts).items():
        console.print(f"\n{title}")
        print_rows(list(table.columns), table.to_numpy().tolist())
        console.print(note)
    for name, each in found.items():
        console.print(f"{name}: run by {each.machine}")
    network, length = run.detector.network(role), input_length(run.detector)
    table = devices.verdicts(network, length, linked=linked_sizes(run, role))
    console.print("\nDevices, in INT8")
    # The estimate counts the network's operations only, and instructions stand above.
    shown = device_table(table[table["sizes"] == "linked"]).drop(columns="estimate, ms")
    print_rows(list(shown.columns), shown.to_numpy().tolist())
    console.print(
        "Flash is the whole program; RAM is static memory, stack and a buffer of 16-bit samples. "
        "-DHFLD_WARNINGS=0 leaves out the warnings, whose spectrum takes most of the memory. Other "
        "devices have no Cortex-M: `hfld edge RUN` lists them."
    )


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
            f"  time: about {verdict.estimate_ms:.3g} ms or more for the network alone, an "
            "estimate: MACs over the data sheet's rate"
        )
