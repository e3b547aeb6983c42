"""What a study's numbers say of each other: intervals over networks, rank correlations, embeddings, claims."""

from compare.relations.bootstrap import Interval, RelationError, bootstrap
from compare.relations.claims import Claim, Roles, agreement, claims
from compare.relations.correlations import Correlation, correlations
from compare.relations.embedding import Embedding, embed
from compare.relations.measures import Barriers, Sizes

__all__ = [
    "Barriers",
    "Claim",
    "Correlation",
    "Embedding",
    "Interval",
    "RelationError",
    "Roles",
    "Sizes",
    "agreement",
    "bootstrap",
    "claims",
    "correlations",
    "embed",
]
