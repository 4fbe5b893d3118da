"""Images in a request as text: base64 of a PNG or JPEG."""

import base64
import binascii

from service.data.columns import Values
from service.data.encoding import ArrayInput
from service.data.pictures import decode
from service.errors import Invalid, TooLarge, invalid

LINE_ENDS = str.maketrans("", "", "\r\n")


def image(text: str, expected: ArrayInput, where: str) -> Values:
    """uint8 pixels of the model's own shape; raises Invalid with the row's pointer.

    Only for models of uint8 images: what a float image's numbers mean, a file's pixels do not tell.
    """
    if expected.kind != "image" or expected.dtype != "uint8":
        raise invalid(where, "wrong-type", "this model's rows are numbers; only images of 8 bits a channel are taken as base64")
    height, width, *rest = expected.shape
    coded = text.partition("base64,")[2] if text.startswith("data:") else text
    try:
        # Tools wrap long lines (RFC 2045); what else is not of the alphabet is no base64.
        content = base64.b64decode(coded.translate(LINE_ENDS), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(where, "corrupt-file", "the text is no base64") from error
    try:
        found = decode(content, channels=rest[0] if rest else None, most_pixels=height * width)
    except TooLarge as error:
        raise invalid(where, "shape-mismatch", f"the image is larger than {width} x {height} pixels") from error
    except Invalid as error:
        raise invalid(where, error.flaws[0].code, error.flaws[0].message) from error
    if found.shape != expected.shape:
        raise invalid(where, "shape-mismatch", f"the image has {found.shape[1]} x {found.shape[0]} pixels; expected {width} x {height}")
    return found
