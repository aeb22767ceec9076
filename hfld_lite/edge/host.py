"""A network as C, compiled for this computer and called from here."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np

from hfld_lite.edge.firmware import sources
from hfld_lite.edge.integers import Integers
from hfld_lite.edge.program import Program, place
from hfld_lite.errors import HfldError
from hfld_lite.evaluation.detector import Detector
from hfld_lite.evaluation.trust import Trust

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O3", "-std=c99", "-shared", "-fPIC")


class HostLibrary:
    """A detector's network as a shared library; a `Program` is float32, `Integers` are int8.

    Args:
        detector: with the network.
        network: its operations.
        folder: for the files, made if need be; keep it while the library is used.
        trust: limits of *unsure* and of the warnings.
        flags: more options for the compiler.

    Raises:
        HfldError: if there is no C compiler here, or it refuses the files.
    """

    def __init__(
        self,
        detector: Detector,
        network: Program | Integers,
        folder: Path,
        trust: Trust | None = None,
        flags: tuple[str, ...] = (),
    ) -> None:
        compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
        if compiler is None:
            raise HfldError(
                f"There is no C compiler here ({', '.join(COMPILERS)}); on Debian or Ubuntu: apt "
                "install gcc."
            )
        eight_bits = isinstance(network, Integers)
        program = network.program if eight_bits else network
        folder.mkdir(parents=True, exist_ok=True)
        texts = sources(detector, program, network if eight_bits else None, trust, trust)
        for name, text in texts.items():
            (folder / name).write_text(text, "utf-8")
        path = folder / "hfld.so"
        command = [compiler, *FLAGS, *flags, "-o", str(path)]
        command += [str(folder / name) for name in texts if name.endswith(".c")]
        done = subprocess.run([*command, "-lm"], capture_output=True, text=True, check=False)
        if done.returncode:
            raise HfldError(f"{compiler} refused the C: {done.stderr.strip().splitlines()[0]}.")
        self.library = ctypes.CDLL(str(path))
        self._probabilities = np.zeros(len(detector.class_names), np.float32)
        self._arena = np.zeros(place(program, 1 if eight_bits else 4).bytes // 4, np.float32)

    def predict(self, signal: np.ndarray) -> tuple[int, np.ndarray]:
        """Status, and probabilities ``(classes,)``, of a recording, float32 or int16."""
        kind = "_int16" if signal.dtype == np.int16 else ""
        call = getattr(self.library, f"hfld_predict{kind}")
        status = call(_at(signal), len(signal), _at(self._probabilities))
        return status, self._probabilities.copy()

    def network(self, inputs: np.ndarray) -> np.ndarray:
        """Logits ``(classes,)`` of what the network reads, float32 ``(length,)``."""
        self._arena[: len(inputs)] = inputs
        self.library.hfld_network(_at(self._arena), _at(self._probabilities))
        return self._probabilities.copy()


def _at(values: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(values.ctypes.data)
