"""What FGSM training withstands, honestly, on MNIST over HTTP: python -m benchmarks.adversarial_honesty

MLP 784-400-400-10, plain and trained on the FGSM mix at .25 of the pixels' range, six epochs, and a softmax regression; then
robustness jobs on the first 1,000 test rows, without bounds as in Goodfellow et al. 2015, whose softmax regression errs on
99.9 % of all rows under FGSM: each attack by itself, and the ladder, which goes on with what the weaker ones left.
"""

import sys
from typing import Any

import httpx2

from benchmarks.service import claim, run, service, upload_mnist

EPSILON = 0.25 * 255
ROWS = 1000
ATTACKS: list[dict[str, Any]] = [{"type": "uniform_noise"}, {"type": "random_sign"}, {"type": "fgsm"}, {"type": "pgd", "steps": 40}]
STRONG: list[dict[str, Any]] = [
    {"type": "apgd", "steps": 40, "loss": "dlr"},
    {"type": "square", "queries": 300},
    {"type": "ladder", "queries": 300},
]
MODELS: dict[str, dict[str, Any]] = {
    "plain": {"architecture": {"type": "mlp", "hidden": [400, 400]}, "epochs": 6},
    "mix": {
        "architecture": {"type": "mlp", "hidden": [400, 400]},
        "epochs": 6,
        "adversarial_training": {"method": "fgsm", "epsilon": EPSILON, "weight": 0.5},
    },
    "softmax": {"architecture": {"type": "mlp", "hidden": []}, "epochs": 10},
}


def errors(http: httpx2.Client, name: str) -> tuple[dict[str, float], dict[str, Any]]:
    """The share of wrong rows, clean and under each attack, and the job's result."""
    attacks = [{**attack, "bounds": None} for attack in ATTACKS + STRONG]
    job, _ = run(http, {"kind": "robustness", "model": name, "attacks": attacks, "epsilons": [EPSILON], "rows": ROWS})
    found = {attack["type"]: 1 - attack["curve"][0]["accuracy"] for attack in job["result"]["attacks"]}
    return {"clean": 1 - job["result"]["clean"]["accuracy"], **found}, job["result"]


def main() -> int:
    found: dict[str, dict[str, float]] = {}
    results: dict[str, dict[str, Any]] = {}
    with service() as (http, _):
        test = upload_mnist(http)
        for name, fields in MODELS.items():
            spec = {"name": name, "dataset": "mnist", "split": {"test_rows": test}, "batch_size": 128, "early_stopping": None, **fields}
            _, seconds = run(http, spec)
            found[name], results[name] = errors(http, name)
            shown = "  ".join(f"{attack} {100 * error:.1f}" for attack, error in found[name].items())
            print(f"{name:8s} errors in %: {shown}   ({seconds:.0f} s of training)", flush=True)
    plain, mix, reliable, reasons = found["plain"], found["mix"], results["mix"]["reliable"], results["mix"]["reasons"]
    signs, uniform = plain["random_sign"] / plain["fgsm"], plain["uniform_noise"] / plain["fgsm"]
    held = [
        claim(f"mix: FGSM error {100 * mix['fgsm']:.1f} %, at most 25 %", mix["fgsm"] <= 0.25),
        claim(f"mix: PGD-40 error {100 * mix['pgd']:.1f} %, at least 90 %", mix["pgd"] >= 0.9),
        claim(f"mix: APGD-DLR error {100 * mix['apgd']:.1f} %, at least 90 %", mix["apgd"] >= 0.9),
        *(
            claim(f"{name}: the ladder leaves no more than any rung alone", each["ladder"] >= max(each.values()))
            for name, each in found.items()
        ),
        claim(f"mix: reliable is {str(reliable).lower()}, for {', '.join(reasons)}", reliable is False),
        claim(f"plain: FGSM error {100 * plain['fgsm']:.1f} %, at least 98 %", plain["fgsm"] >= 0.98),
        claim(f"plain: random signs {signs:.2f} of it, at most .45", signs <= 0.45),
        claim(f"plain: uniform noise {uniform:.2f} of it, at most .15", uniform <= 0.15),
        claim(f"softmax regression: FGSM error {100 * found['softmax']['fgsm']:.1f} %, at least 99 %", found["softmax"]["fgsm"] >= 0.99),
    ]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
