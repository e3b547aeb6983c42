"""A study of one precision: networks of several algorithms, how flat they are, how far apart, what lies between."""

from compare.study.between import bend, pair
from compare.study.network import member
from compare.study.site import Measures, Origin, Site, prepared
from compare.study.whole import all_pairs, study
from compare.study.work import Job, Kind, Plan, carry_out, collected, jobs

__all__ = [
    "Job",
    "Kind",
    "Measures",
    "Origin",
    "Plan",
    "Site",
    "all_pairs",
    "bend",
    "carry_out",
    "collected",
    "jobs",
    "member",
    "pair",
    "prepared",
    "study",
]
