"""What a model is taken elsewhere with: ONNX and the card, over HTTP."""

import json
from hashlib import sha256
from typing import Any

import httpx2
import numpy as np
import onnxruntime
import pytest

from tests.system.desk import Desk

SPEC: dict[str, Any] = {
    "name": "taken",
    "dataset": "digits",
    "architecture": {"type": "conv_autoencoder", "channels": [4], "code": 6},
    "targets": [{"name": "input", "task": "reconstruction", "weight": 0.2}, {"name": "label"}],
    "ensemble": {"size": 2, "bootstrap": True},
    "epochs": 3,
}


@pytest.fixture(scope="module")
def job(desk: Desk) -> Any:
    return desk.run(SPEC)


def fetched(desk: Desk, job: Any, name: str, **headers: str) -> httpx2.Response:
    return desk.http.get(f"/api/v1/models/{job['model']}/files/{name}", headers=headers)


def test_onnx_runtime_says_what_the_service_says(desk: Desk, job: Any) -> None:
    inputs, _ = desk.rows("digits", "image", 0, 9)
    answer = fetched(desk, job, "model.onnx")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/octet-stream")
    session = onnxruntime.InferenceSession(answer.content)
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(names, {"input": np.array(inputs, dtype=np.float32)}), strict=True))
    targets = desk.predict(job["model"], inputs, **{"return": ["probabilities", "error", "anomaly"], "false_alarm_rate": 0.1})["targets"]
    np.testing.assert_allclose(found["label.probabilities"], targets["label"]["probabilities"], atol=1e-5)
    np.testing.assert_allclose(found["input.prediction"], targets["input"]["prediction"], atol=1e-4)
    np.testing.assert_allclose(found["input.error"], targets["input"]["error"], rtol=1e-5)
    said = [targets["label"]["classes"][i] for i in found["label.prediction"]]
    assert said == targets["label"]["prediction"]
    anomaly = targets["input"]["anomaly"]
    assert anomaly["anomalous"] == [error > anomaly["threshold"] for error in targets["input"]["error"]]
    assert anomaly["validation_rows"] == desk.report(job)["rows"]["validation"] == 270
    assert json.loads(session.get_modelmeta().custom_metadata_map["temper"])["targets"][1]["classes"] == targets["label"]["classes"]


def test_files_that_are_made_are_files_like_others(desk: Desk, job: Any) -> None:
    model = desk.model(job)
    for name, kind in (("model.onnx", "application/octet-stream"), ("card.md", "text/markdown; charset=utf-8")):
        whole = desk.http.get(model["links"][name])
        assert whole.headers["content-type"] == kind
        tag = whole.headers["etag"]
        assert tag == f'"{sha256(whole.content).hexdigest()}"'
        assert fetched(desk, job, name, **{"If-None-Match": tag}).status_code == 304
        piece = fetched(desk, job, name, Range="bytes=10-19")
        assert (piece.status_code, piece.content) == (206, whole.content[10:20])
        head = desk.http.head(f"/api/v1/models/{job['model']}/files/{name}")
        assert int(head.headers["content-length"]) == len(whole.content)
    missing = fetched(desk, job, "model.tflite")
    assert missing.status_code == 404
    assert "model.onnx" in missing.json()["detail"]


def test_the_card_says_what_was_measured(desk: Desk, job: Any) -> None:
    text = fetched(desk, job, "card.md").text
    test, model = desk.report(job)["splits"]["test"], desk.model(job)
    figures = [f"{test['label.accuracy']:.4g}", f"{test['input.error_original']:.4g}", "Clopper-Pearson", "5% false alarms"]
    facts = [f"# taken, version {model['version']}", model["sha256"], "2 members, bagged", "1,257 train, 270 validation, 270 test"]
    for words in (*figures, *facts):
        assert words in text, words
