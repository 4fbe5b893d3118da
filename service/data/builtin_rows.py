"""scikit-learn's digits and diabetes as columns, with the values as they are delivered there; a short-lived process."""

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_diabetes, load_digits

from service.data.columns import ColumnFile, column_path
from service.data.fields import Description, Field, Invariances
from service.data.limits import Limits
from service.data.measures import statistics
from service.data.parse import finish


def write(name: str, folder: Path) -> Description:
    """Write the columns of `digits` or `diabetes` below the folder, and describe them."""
    return finish(_digits(folder) if name == "digits" else _diabetes(folder), folder, Limits())


def _digits(folder: Path) -> Description:
    """1,797 images [8, 8] of values 0 to 16, and the digit that each shows."""
    data = load_digits()
    image, label = ColumnFile(column_path(folder, 0), np.float32, (8, 8)), ColumnFile(column_path(folder, 1), np.int32)
    image.append(data.images)
    label.append(data.target)
    counts = np.bincount(data.target).tolist()
    pictures = Field(name="image", kind="image", shape=(8, 8), dtype="float32").model_copy(update=statistics(image.close()))
    classes = Field(name="label", kind="categorical", dtype="int32", classes=tuple((str(digit), n) for digit, n in enumerate(counts)))
    label.close()
    invariances = Invariances(rotation_degrees=15, translation_pixels=1, horizontal_flip=False, vertical_flip=False)
    return Description(format="builtin", rows=len(data.target), fields=(pictures, classes), targets=("label",), invariances=invariances)


def _diabetes(folder: Path) -> Description:
    """442 patients, ten baseline measurements, unscaled, and the disease's progression after a year."""
    data = load_diabetes(scaled=False)
    names = (*data.feature_names, "target")
    fields = []
    for index, (name, values) in enumerate(zip(names, (*data.data.T, data.target), strict=True)):
        file = ColumnFile(column_path(folder, index), np.float64)
        file.append(values)
        fields.append(Field(name=name, kind="numeric").model_copy(update=statistics(file.close())))
    return Description(format="builtin", rows=len(data.target), fields=tuple(fields), targets=("target",))


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
