"""Targets of every kind over HTTP, from an upload to predictions, attacks and reports."""

import io

import numpy as np

from tests.system.desk import Desk


def solved() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions of a game of three heaps of up to two, who takes last wins: winning moves as a distribution, and who wins."""
    x, policy, value = [], [], []
    for place in range(27):
        heaps = (place // 9, place // 3 % 3, place % 3)
        moves = [(i, n) for i in range(3) for n in range(1, heaps[i] + 1)]
        best = [i for i, n in moves if heaps[0] ^ heaps[1] ^ heaps[2] ^ heaps[i] ^ (heaps[i] - n) == 0] or list(range(3))
        x.append(heaps)
        policy.append(np.bincount(best, minlength=3) / len(best))
        value.append(1.0 if heaps[0] ^ heaps[1] ^ heaps[2] else -1.0)
    return np.array(x * 8, np.float32), np.array(policy * 8, np.float32), np.array(value * 8, np.float32)


def test_policy_and_value_are_learned_by_one_net_from_upload_to_prediction(desk: Desk) -> None:
    """AlphaGo Zero's loss on nim: a distribution and a value through tanh, weights fixed and learned, and what one may ask after."""
    x, policy, value = solved()
    content = io.BytesIO()
    np.savez(content, x=x, policy=policy, value=value)
    upload = desk.http.post("/api/v1/datasets", files={"file": ("nim.npz", content.getvalue())}, data={"name": "nim"})
    assert upload.status_code == 201, upload.text
    job = desk.run(
        {
            "dataset": "nim",
            "targets": [{"name": "policy"}, {"name": "value", "output": "tanh", "weight": "learned"}],
            "regularizers": [{"type": "l2", "alpha": 1e-5, "parameters": "all"}],
            "architecture": {"type": "mlp", "hidden": [48]},
            "optimizer": {"type": "adam", "learning_rate": 0.02},
            "early_stopping": {"monitor": "policy.kl", "patience": 100},
        }
    )
    assert [target["task"] for target in job["spec"]["targets"]] == ["distribution", "regression"]
    report = desk.report(job)
    assert report["splits"]["test"]["policy.kl"] < 0.05
    assert report["splits"]["test"]["value.mse"] < 0.1
    assert report["targets"]["value"]["weight"] > 1
    assert report["calibration"] is None
    answer = desk.predict(job["model"], x[:27].tolist())["targets"]
    p = np.array(answer["policy"]["probabilities"])
    assert answer["policy"]["prediction"] == [str(place) for place in p.argmax(1)]
    assert np.abs(p - policy[:27]).max() < 0.5
    assert np.abs(np.array(answer["value"]["prediction"])).max() <= 1
    labels = {"policy": policy[:27].tolist()}
    body = {"inputs": x[:27].tolist(), "labels": labels, "attack": {"type": "fgsm", "epsilon": 1.0}}
    attacked = desk.http.post(f"/api/v1/models/{job['model']}/attack", json=body)
    assert attacked.status_code == 200, attacked.text
    checked = desk.run({"kind": "robustness", "model": job["model"], "attacks": [{"type": "fgsm"}], "epsilons": [0, 0.5]})
    assert checked["result"]["attacks"][0]["curve"][0]["accuracy"] > 0.8
    page = desk.http.get(f"/api/v1/models/{job['model']}/report.html")
    assert "weight in the objective" in page.text


def test_a_decision_and_sample_weights_go_the_whole_way(desk: Desk) -> None:
    table = "\n".join(["a,w,y", *(f"{i % 10},{1 + i % 3},{'yes' if i % 10 > 7 else 'no'}" for i in range(300))])
    upload = desk.http.post("/api/v1/datasets", files={"file": ("rare.csv", table, "text/csv")}, data={"name": "rare"})
    assert upload.status_code == 201, upload.text
    spec = {
        "dataset": "rare",
        "architecture": {"type": "mlp", "hidden": [8]},
        "features": {"weight": "w"},
        "targets": [{"name": "y", "class_weights": "balanced", "decision": {"threshold": "validation"}}],
        "epochs": 20,
    }
    job = desk.run(spec)
    decision = desk.report(job)["targets"]["y"]["decision"]
    assert 0 < decision["threshold"] < 1
    assert [column["name"] for column in desk.model(job)["signature"]["inputs"]] == ["a"]
    answer = desk.predict(job["model"], [[value] for value in range(10)])["targets"]["y"]
    assert answer["prediction"] == ["yes" if row[1] >= decision["threshold"] else "no" for row in answer["probabilities"]]
    for wrong, pointer in (
        ({**spec, "features": {"weight": "b"}}, "/features/weight"),
        ({**spec, "features": {"weight": "y"}}, "/features/weight"),
        ({**spec, "targets": [{"name": "y", "class_weights": {"maybe": 2}}]}, "/targets/0/class_weights/maybe"),
        ({**spec, "targets": [{"name": "y", "decision": {"costs": [[0]]}}]}, "/targets/0/decision/costs"),
        ({**spec, "split": {"test": 0.2}}, "/targets/0/decision/threshold"),
        ({**spec, "targets": [{"name": "a", "output": "tanh"}]}, "/targets/0/output"),
    ):
        refused = desk.http.post("/api/v1/jobs", json=wrong)
        assert refused.status_code == 422, refused.text
        assert pointer in [error["pointer"] for error in refused.json()["errors"]]
