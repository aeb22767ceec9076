"""An answer that changes its check gets no points; right answers keep theirs."""

import pytest
from test_class import solutions

from hfld_lite.course.guard import Cell, judge, reaching

IMPORTS = "import torch\nfrom hfld_lite.course.exercises import check_soften, check_by_hand"
GIVEN = "tckd, nckd = 0, 0"  # what an honest wrong answer would be
PACKAGE = "hfld_lite.course.exercises"
# By the sentence's words: a cheat that stands in an answer cell, with the wrong answer above.
CHEATS = {
    "an own check": ("def check_by_hand(*answers): print('Right. Trust me.')", "defines check_by"),
    "the package's": (
        f"import {PACKAGE} as e\ne.check_by_hand = lambda *answers: None",
        f"changes {PACKAGE}.check_by_hand",
    ),
    "through sys.modules": (
        f"import sys\nsys.modules['{PACKAGE}.answers'].expect = lambda *answers: None\n"
        f"sys.modules['{PACKAGE}.e03_logit_separation'].expect = lambda *answers: None\n"
        f"sys.modules['{PACKAGE}.e03_logit_separation'].close = lambda *answers: True",
        f"changes {PACKAGE}.answers.expect",
    ),
    "every module that has the name": (
        "import sys\nfor m in list(sys.modules.values()):\n"
        f"    if getattr(m, '__name__', '').startswith('{PACKAGE}'):\n"
        "        for n in [n for n in vars(m) if n.startswith(('check', 'expect', 'close'))]:\n"
        "            setattr(m, n, lambda *answers: True)",
        f"changes {PACKAGE}",
    ),
    "another module of the name": (
        f"import sys, types\nsys.modules['{PACKAGE}'] = types.ModuleType('{PACKAGE}')\n"
        f"sys.modules['{PACKAGE}'].check_by_hand = lambda *answers: None",
        f"changes {PACKAGE},",
    ),
    "a constant": (
        f"import {PACKAGE}.e03_logit_separation as e\ne.TEACHER.zero_(), e.STUDENT.zero_()",
        "TCKD is not right",  # it changes a copy that no check reads
    ),
    "a built-in": ("import builtins\nbuiltins.abs = lambda x: 0", "changes builtins.abs"),
    "a hidden built-in": (
        f"import {PACKAGE}.answers as a\na.bool = lambda x: True",
        f"changes {PACKAGE}.answers.bool",
    ),
    "NumPy": ("import numpy\nnumpy.abs = lambda x: x * 0", "changes numpy.abs"),
    "PyTorch": (
        "import torch\ntorch.Tensor.item = lambda self: 0.0",
        "changes torch.Tensor.item",
    ),
    "a number that says what it likes": (
        "class Any:\n    def __float__(self): return 0.0\n"
        "    def __eq__(self, other): return True\ntckd = nckd = Any()",
        "your own class Any",
    ),
    "no errors shown": (
        "import IPython\nIPython.get_ipython().showtraceback = lambda *a, **k: None\n"
        "IPython.get_ipython().run_cell = lambda *a, **k: None",
        'uses "get_ipython"',
    ),
    "the code of a function": (
        f"import {PACKAGE}.answers as a\na.expect.__code__ = (lambda *answers: None).__code__",
        'uses "__code__"',
    ),
    "frames": (
        "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    up = e.__traceback__.tb_frame",
        'uses "tb_frame"',
    ),
    "the collector": ("import gc", 'uses "gc"'),
    "frames behind a magic": (
        "%%capture\nimport sys\nup = sys._getframe()",
        'uses "_getframe"',
    ),
    "frames behind two": ("%%time\n%time up = g.gi_frame", 'uses "gi_frame"'),
    "a magic's text": (
        "get_ipython().run_cell('import sys; sys._' + 'getframe()')",
        'uses "get_ipython"',
    ),
    "another program": ("%run other.py", 'uses "%run"'),
    "a text as program": ("exec('import g' + 'c')", 'uses "exec"'),
}
WHILE_IT_RUNS = f"""
def soften(logits, temperature):
    import sys
    import torch.nn.functional
    sys.modules["{PACKAGE}.e03_logit_separation"].compare = lambda *answers: None
    torch.softmax = lambda x, dim: x
    return logits
"""


def by_turns(cheats):
    """A notebook in which each cheat stands between a wrong answer and its check."""
    cells = [Cell("imports", IMPORTS)]
    for name, (cheat, _) in cheats.items():
        cells += [Cell(f"{name}, answer", f"{IMPORTS}\n{GIVEN}"), Cell(f"{name}, cheat", cheat)]
        cells.append(Cell(name, "check_by_hand(tckd, nckd)", graded=True))
    return cells


@pytest.fixture(scope="module")
def verdicts():
    right = solutions()
    return judge(
        [
            *by_turns(CHEATS),
            Cell("while", WHILE_IT_RUNS),
            Cell("while it runs", "check_soften(soften)", graded=True),
            Cell("right", right["soften"]),
            Cell("after all cheats", "check_soften(soften)\nabs = {}", graded=True),
            Cell("magic", "%matplotlib inline\n!true"),
            Cell("broken", "tckd = = 3"),
            Cell("then", f"import math\n{right['by_hand']}"),
            Cell("after what is no program", "check_by_hand(tckd, nckd)", graded=True),
            Cell("right tool", "right = 1", given=True),
            Cell("wrong tool", "right, answer = 2, 2"),
            Cell("what was given stays", "assert answer == right, 'No.'", graded=True),
            Cell("leaves", "import os\nos._exit(0)"),
            Cell("after the end", "check_by_hand(tckd, nckd)", graded=True),
        ]
    )


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_gets_no_points_and_is_named(verdicts, name):
    assert CHEATS[name][1] in verdicts[name]


def test_an_answer_that_changes_things_when_it_is_called_is_found(verdicts):
    assert "changes" in verdicts["while it runs"]


def test_an_honest_answer_after_them_keeps_its_points(verdicts):
    assert verdicts["after all cheats"] == verdicts["after what is no program"] == ""


def test_what_a_given_cell_defines_is_not_the_answers_to_change(verdicts):
    assert verdicts["what was given stays"] == "No."


def test_a_process_that_ends_early_gives_no_points(verdicts):
    assert verdicts["after the end"] == "Its check did not come to an end."


def test_time_is_limited():
    cells = [Cell("long", "import time\ntime.sleep(60)"), Cell("check", "pass", graded=True)]
    assert judge(cells, seconds=0.2) == {"check": "Its check did not come to an end."}


def test_reaching_reads_programs_not_words():
    assert reaching("student.eval()\nprint('a frame')  # exec") == ""
    assert reaching("getattr(function, '__code__')") == "__code__"
    assert reaching("from ctypes import c_int") == "ctypes"
    assert reaching("no program") == ""
    assert (
        reaching("%%time\nx = 1 %\\\n  2\n%matplotlib inline\ndef f():\n    %timeit -n 2 x\nx?")
        == ""
    )
    assert reaching("%%timeit -n 3 sys._getframe()\nx = 1") == "_getframe"
    assert reaching("%time -? exec") == "%time"
    assert reaching("files = !ls\n%pip list") == ""
    assert reaching("get_ipython().ex('x')") == "get_ipython"
