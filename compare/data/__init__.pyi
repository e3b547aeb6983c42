from .load import load_data as load_data
from .names import DATA_SETS as DATA_SETS
from .source import DataError as DataError
from .split import Data as Data
from .split import Split as Split
