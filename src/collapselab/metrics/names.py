"""The names of all metrics, in catalogue order. Needs no torch, so that a misspelt name is told at once."""

from __future__ import annotations

from collections.abc import Sequence

from collapselab.names import check_names

# A test compares them with the registry.
METRIC_NAMES = tuple(
    [
        "within_trace",
        "between_trace",
        "total_trace",
        "normalized_within",
        "normalized_within_debiased",
        "squared_distance",
        "squared_distance_debiased",
        "fuzziness",
        "nc1",
        "vci",
        "vci_adjusted",
        "cosine_similarity",
        "class_separation",
        "cdnv",
        "equinorm",
        "equiangularity",
        "max_angle_gap",
        "mean_cosine_gap",
        "etf_distance",
        "self_duality",
        "alignment",
        "alignment_random",
        "weight_singular_spread",
        "weight_top_spread",
        "weight_stable_rank",
        "ncc_agreement",
        "ncc_mismatch",
        "ncc_accuracy",
        "stable_rank",
        "stable_rank_low",
        "stable_rank_high",
        "stable_rank_per_class",
        "stable_rank_published",
        "within_in_weight_space",
        "within_off_weight_space",
        "between_in_weight_space",
        "between_off_weight_space",
        "components_90",
        "components_95",
        "components_99",
        "train_variance",
        "strong_test_variance",
        "strong_test_variance_debiased",
        "weak_test_variance",
        "weak_test_variance_trimmed",
        "smallest_cluster",
    ]
)


def check_metrics(names: Sequence[str], listed: str = "All names: collapselab metrics") -> None:
    """Refuse names of unknown metrics.

    Args:
        names: names to check.
        listed: where all names are listed, a sentence for the message.

    Raises:
        InputError: naming the first unknown one, with near matches.
    """
    check_names(names, METRIC_NAMES, "metric", listed)
