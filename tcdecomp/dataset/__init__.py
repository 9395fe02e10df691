"""What all N posteriors of a data set say: exact terms, with standard errors."""

from tcdecomp.dataset.decomposition import DatasetTerms, decompose_dataset
from tcdecomp.dataset.groups import GroupTerms, SplitTC, decompose_groups, split_tc

__all__ = [
    "DatasetTerms",
    "GroupTerms",
    "SplitTC",
    "decompose_dataset",
    "decompose_groups",
    "split_tc",
]
