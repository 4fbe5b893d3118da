"""A convolutional network over HTTP: its pictures, its gradients, and rows projected from one of its layers."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from tests.system.desk import Desk


@pytest.mark.parametrize("stack", ["embedded"], indirect=True)
def test_a_convolutional_network_is_looked_into(desk: Desk) -> None:
    net = {"type": "cnn", "channels": [4, 6], "hidden": [8]}
    job = desk.run({"name": "looked-into", "dataset": "digits", "architecture": net, "epochs": 2, "ensemble": {"size": 2}})
    model, found = desk.model(job), desk.report(job)["gradients"]
    assert set(found["layers"]) == {"conv.0", "conv.1", "hidden.0", "head.label"}
    assert all(norm > 0 for moments in found["layers"].values() for norm in moments.values())
    assert (found["steps"]["first"], found["steps"]["early"], found["over_time"]) == (0, 20, {})
    for name in ("features.svg", "gradients.svg"):
        picture = desk.http.get(model["links"][name])
        assert picture.status_code == 200, picture.text
        assert ET.fromstring(picture.content).tag.endswith("}svg")
    rows, _ = desk.rows("digits", "image", 0, 2)
    asked = {"inputs": rows, "layer": "conv.1", "strongest": 3}
    said = desk.http.post(model["links"]["project"], json=asked)
    assert said.status_code == 200, said.text
    answer = said.json()
    assert (answer["model"], answer["rows"], answer["shape"]) == (model["id"], 2, [2, 2, 6])
    assert np.shape(answer["projections"]) == (2, 3, 8, 8)
    refused = desk.http.post(model["links"]["project"], json={**asked, "layer": "conv.7"})
    assert (refused.status_code, [error["pointer"] for error in refused.json()["errors"]]) == (422, ["/layer"])
