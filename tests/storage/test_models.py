"""Models by every way to name them, and the aliases that point at them."""

from dataclasses import replace
from typing import Any

import pytest

from service.errors import Conflict, NotFound
from service.storage import jobs, models
from service.storage.ids import new_id
from service.storage.jobs import JobDraft, ShardDraft
from service.storage.models import Model, ModelDraft

PROJECT = "default"
DRAFT = ModelDraft(
    id="", name="digits", spec={}, signature={}, layers=[{"name": "hidden.0"}], parameters=3, metrics={}, members=1, files={}, sha256="0"
)  # fmt: skip


@pytest.fixture
def three(database: Any) -> list[Model]:
    with database.write() as c:
        return [
            models.insert(c, PROJECT, replace(DRAFT, id=new_id("mdl")), job_id=None, dataset_id=None, labels={"n": str(n)})
            for n in range(3)
        ]


def test_versions_count_up_per_name(database: Any, three: list[Model]) -> None:
    assert [model.version for model in three] == [1, 2, 3]
    with database.write() as c:
        other = models.insert(c, PROJECT, replace(DRAFT, id=new_id("mdl"), name="b"), job_id=None, dataset_id=None, labels={})
        assert other.version == 1
        assert models.exists(c, other.id)
        assert not models.exists(c, new_id("mdl"))


def test_a_version_is_not_given_twice(database: Any, three: list[Model]) -> None:
    with database.write() as c:
        models.delete(c, PROJECT, "digits:3")
        again = models.insert(c, PROJECT, replace(DRAFT, id=new_id("mdl")), job_id=None, dataset_id=None, labels={})
        assert again.version == 4


def test_every_ref_finds_its_model(database: Any, three: list[Model]) -> None:
    with database.write() as c:
        for ref, version in (("digits", 3), ("digits:1", 1), (three[1].id, 2)):
            assert models.get(c, PROJECT, ref).version == version
        models.set_alias(c, PROJECT, "digits", "champion", version=1)
        models.set_alias(c, PROJECT, "digits", "next", version=2)
        for ref, version in (("digits", 1), ("digits@champion", 1), ("digits@next", 2), ("digits:3", 3)):
            assert models.get(c, PROJECT, ref).version == version
        assert models.get(c, PROJECT, "digits").aliases == ("champion",)
        assert [model.aliases for model in models.page(c, PROJECT, limit=5, cursor=None).items] == [(), ("next",), ("champion",)]
        assert [model.version for model in models.page(c, PROJECT, limit=5, cursor=None, labels=[("n", "1")]).items] == [2]


@pytest.mark.parametrize(
    "ref",
    ["nobody", "digits:0", "digits:4", "digits:01", "digits:99999999999999999999", "digits:x", "digits@none", "digits@", "digits:", "@a",
     ":1", "digits:1@a", "Digits", "", "\0", "mdl_01jzzzzzzzzzzzzzzzzzzzzzzz", "mdl_x", "digits\n", "digits:1\n"],
)  # fmt: skip
def test_any_other_ref_is_not_found(database: Any, three: list[Model], ref: str) -> None:
    with database.read() as c, pytest.raises(NotFound):
        models.get(c, PROJECT, ref)
    with database.read() as c, pytest.raises(NotFound):
        models.get(c, "another", three[0].id)


def test_aliases_move_and_remember(database: Any, three: list[Model]) -> None:
    with database.write() as c:
        for version in (1, 2):
            models.set_alias(c, PROJECT, "digits", "champion", version=version)
        models.delete_alias(c, PROJECT, "digits", "champion")
        moves = models.history(c, PROJECT, "digits", "champion")
    assert [move.version for move in moves] == [None, 2, 1]
    with database.write() as c, pytest.raises(NotFound):
        models.delete_alias(c, PROJECT, "digits", "champion")
    with database.write() as c, pytest.raises(NotFound):
        models.set_alias(c, PROJECT, "digits", "champion", version=9)


def test_a_model_with_an_alias_stays(database: Any, three: list[Model]) -> None:
    with database.write() as c:
        models.set_alias(c, PROJECT, "digits", "champion", version=1)
    with database.write() as c, pytest.raises(Conflict) as caught:
        models.delete(c, PROJECT, "digits")
    assert caught.value.slug == "alias-in-use"
    with database.write() as c:
        assert models.delete(c, PROJECT, "digits:3") == three[2]
    with database.read() as c, pytest.raises(NotFound):
        models.get(c, PROJECT, "digits:3")


def test_a_model_that_an_unfinished_job_needs_stays(database: Any, three: list[Model]) -> None:
    needed = three[0].id
    draft = JobDraft(kind="train", name="next", spec={}, members=1, epochs=1, models=(needed,), extra={"models": [needed]})
    with database.write() as c:
        job_id = jobs.insert(c, PROJECT, draft, [ShardDraft("train", (0,))])
    with database.write() as c, pytest.raises(Conflict) as caught:
        models.delete(c, PROJECT, needed)
    assert caught.value.slug == "model-in-use"
    with database.write() as c:
        models.delete(c, PROJECT, three[1].id)
        jobs.cancel(c, PROJECT, job_id)
    with database.write() as c:
        models.delete(c, PROJECT, needed)
    with database.write() as c, pytest.raises(Conflict) as caught:
        jobs.insert(c, PROJECT, draft, [ShardDraft("train", (0,))])
    assert caught.value.slug == "model-deleted"
