"""Instant checks for learners, a module for each notebook, and help in steps.

``check_NAME(answer)`` says that an answer is right, or names the likely mistake; ``hint("NAME",
step)`` helps. The exercises are in ``notebooks/exercises/``.
"""

from hfld_lite.course.exercises.answers import NotAnswered, NotRight
from hfld_lite.course.exercises.e01_data_preparation import (
    check_bin_width,
    check_honest_report,
    check_min_max,
    check_split_tiles,
    check_strongest,
    check_usable,
)
from hfld_lite.course.exercises.e02_teachers_and_the_capacity_gap import (
    check_block_parameters,
    check_fair_compare,
    check_far_sighted,
    check_head_share,
    check_paired_gap,
    check_sees,
)
from hfld_lite.course.exercises.e03_logit_separation import (
    check_by_hand,
    check_distil_loss,
    check_distil_step,
    check_read_temperature,
    check_separate,
    check_soften,
)
from hfld_lite.course.exercises.e04_feature_matching import (
    check_channel_statistics,
    check_look,
    check_matching_loss,
    check_projector,
    check_read_similarity,
    check_train_matching,
)
from hfld_lite.course.exercises.e05_parameter_value_prediction import (
    check_balanced_training,
    check_fixed_sum,
    check_meta_slope,
    check_price,
    check_verdict,
)
from hfld_lite.course.exercises.e06_build_the_chain import (
    check_distil_cached,
    check_distil_stage,
    check_stage_order,
)
from hfld_lite.course.exercises.e07_hierarchical_training import (
    check_best_middle,
    check_gap_closed,
    check_next_teacher,
)
from hfld_lite.course.exercises.e08_edge_size_analysis import (
    challenge_score,
    check_conv_macs,
    check_fits_on,
    check_int8_bytes,
    check_peak_bytes,
    check_requantise,
    check_smallest,
    check_zero_point,
)
from hfld_lite.course.exercises.e09_evaluation_and_generalisation import (
    check_cheapest_limit,
    check_confidence_gap,
    check_corrected,
    check_miss_rate,
    check_shared_tiles,
    check_tile_bootstrap,
)
from hfld_lite.course.exercises.e10_only_good_parts import (
    check_honest_limit,
    check_least_promise,
    check_limit_for,
    check_worth,
)
from hfld_lite.course.exercises.hints import hint
from hfld_lite.course.exercises.in_place import exercise

__all__ = [
    "NotAnswered",
    "NotRight",
    "challenge_score",
    "check_balanced_training",
    "check_best_middle",
    "check_bin_width",
    "check_block_parameters",
    "check_by_hand",
    "check_channel_statistics",
    "check_cheapest_limit",
    "check_confidence_gap",
    "check_conv_macs",
    "check_corrected",
    "check_distil_cached",
    "check_distil_loss",
    "check_distil_stage",
    "check_distil_step",
    "check_fair_compare",
    "check_far_sighted",
    "check_fits_on",
    "check_fixed_sum",
    "check_gap_closed",
    "check_head_share",
    "check_honest_limit",
    "check_honest_report",
    "check_int8_bytes",
    "check_least_promise",
    "check_limit_for",
    "check_look",
    "check_matching_loss",
    "check_meta_slope",
    "check_min_max",
    "check_miss_rate",
    "check_next_teacher",
    "check_paired_gap",
    "check_peak_bytes",
    "check_price",
    "check_projector",
    "check_read_similarity",
    "check_read_temperature",
    "check_requantise",
    "check_sees",
    "check_separate",
    "check_shared_tiles",
    "check_smallest",
    "check_soften",
    "check_split_tiles",
    "check_stage_order",
    "check_strongest",
    "check_tile_bootstrap",
    "check_train_matching",
    "check_usable",
    "check_verdict",
    "check_worth",
    "check_zero_point",
    "exercise",
    "hint",
]
