"""What all N posteriors of a data set say: exact terms, with standard errors."""

from tcdecomp.dataset.decomposition import DatasetTerms, decompose_dataset
from tcdecomp.dataset.density_mig import density_mig_score, density_mutual_info_gap
from tcdecomp.dataset.density_tables import DensityTables
from tcdecomp.dataset.groups import GroupTerms, SplitTC, decompose_groups, split_tc
from tcdecomp.dataset.tensor_tables import tensor_tables

__all__ = [
    "DatasetTerms",
    "DensityTables",
    "GroupTerms",
    "SplitTC",
    "decompose_dataset",
    "decompose_groups",
    "density_mig_score",
    "density_mutual_info_gap",
    "split_tc",
    "tensor_tables",
]
