"""Measured levels of a workflow -> the GPUs that a number of users needs, by a line through them.

A drop-in for `nat sizing calc` (once `aiq sizing calc`): the same folders, the same JSON keys, the
same names in Python. What that tool loses, this one says: a target no line reaches, a fit too poor
to use, an estimate beyond every level that worked. What its files have no key for stands under
`tonnage` in the same file, where the other tool does not look.

    config = CalcRunnerConfig(config_file=…, output_dir=…, concurrencies=[1, 2, 4, 8, 16],
                              target_workflow_runtime=10, target_users=100, test_gpu_count=8)
    output = await CalcRunner(config).run()  # offline_mode=True: from what was measured before

`models` holds the nouns, `jobs` the folders, `estimate` the arithmetic, `table` and `plots` what
is shown. To measure, `workflow` and `plan` say what, `online` does it, `metrics` sums it up.
"""

from __future__ import annotations

from tonnage.sizing_calc.models import (
    CalcRunnerConfig,
    CalcRunnerOutput,
    ConfigError,
    FitConfig,
)
from tonnage.sizing_calc.runner import CalcRunner

__all__ = ["CalcRunner", "CalcRunnerConfig", "CalcRunnerOutput", "ConfigError", "FitConfig"]
