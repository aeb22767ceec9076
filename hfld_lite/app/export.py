"""A run's network on its way to a device."""

from pathlib import Path

from hfld_lite.app.runs import Run
from hfld_lite.data.recordings import Recordings
from hfld_lite.edge.deploy import Export, export_network
from hfld_lite.edge.export import OPSET
from hfld_lite.edge.firmware import Firmware, export_firmware
from hfld_lite.errors import DataError


def export_run(
    run: Run,
    folder: str | Path,
    format: str = "onnx",
    *,
    role: str = "student",
    raw: bool = False,
    opset: int = OPSET,
    miss_rate: float | None = None,
    data: str | Path | None = None,
    progress: bool = False,
) -> Export:
    """Write a run's network for a device; see :func:`hfld_lite.edge.deploy.export_network`.

    The run gives the limits of *unsure*, and its recordings where they are needed: in eight bits,
    and for a miss rate.

    Args:
        run: of `load_run`.
        folder, format, role, raw, opset: as there.
        miss_rate: promised share of defective recordings called sound; by default the run's.
        data: where the run's recordings are now, if they were moved.
        progress: show the simulation's or the reading's progress.

    Raises:
        DataError: if the run's recordings are needed and gone.
        RecipeError: if the run's recordings are needed and have changed.
        HfldError: as there.
    """
    return export_network(
        run.detector,
        folder,
        format,
        role=role,
        raw=raw,
        opset=opset,
        trust=run.trust.get(role),
        miss_rate=miss_rate,
        recordings=lambda: run.recordings(progress, data),
        split=run.split,
        hop=(run.facts["window"] or (None, None))[1],
    )


def export_run_as_c(
    run: Run,
    folder: str | Path,
    format: str = "c",
    *,
    role: str = "student",
    miss_rate: float | None = None,
    data: str | Path | None = None,
    progress: bool = False,
) -> Firmware:
    """Write a run's network as C; see :func:`hfld_lite.edge.firmware.export_firmware`.

    Args:
        run: of `load_run`.
        folder, format, role: as there.
        miss_rate: promised share of defective recordings called sound; by default the run's.
        data: where the run's recordings are now, if they were moved.
        progress: show the simulation's or the reading's progress.

    Raises:
        DataError: if the run's recordings are needed and gone.
        RecipeError: if the run's recordings are needed and have changed.
        HfldError: as there.
    """

    def recordings() -> Recordings:
        try:
            return run.recordings(progress, data)
        except DataError as error:
            if format != "c" or miss_rate is not None:
                raise
            raise DataError(
                error.where,
                error.found,
                expected=f"{error.expected}, which calibrate the eight bits",
                mend=f"{error.mend}, or export --format c-float32",
            ) from error

    return export_firmware(
        run.detector,
        folder,
        format,
        role=role,
        trust=run.trust.get(role),
        miss_rate=miss_rate,
        recordings=recordings,
        split=run.split,
    )
