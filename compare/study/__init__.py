"""A study of one precision: networks of several algorithms, how flat they are, how far apart, what lies between."""

from compare.study.between import bend, pair
from compare.study.network import member
from compare.study.site import Measures, Site, prepared
from compare.study.whole import all_pairs, study

__all__ = ["Measures", "Site", "all_pairs", "bend", "member", "pair", "prepared", "study"]
