"""The optimizer Muon: its steps, its schedule, and a run that resumes with it."""

import pytest
import torch

from tests.models.training.test_training import RECIPE, data  # noqa: F401
from twinforce_models.training.config import read_recipe
from twinforce_models.training.muon import Muon, orthogonalized
from twinforce_models.training.run import prepare


@pytest.mark.parametrize("shape", [(3, 12, 40), (2, 40, 12), (2, 16, 16)])
def test_matrices_become_nearly_orthogonal_along_their_singular_vectors(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    along = u.mT @ orthogonalized(matrices) @ vh.mT
    lengths = along.diagonal(dim1=-2, dim2=-1)
    assert lengths.min() > 0.3
    assert lengths.max() < 1.3
    torch.testing.assert_close(along, torch.diag_embed(lengths), rtol=0, atol=1e-12)


def test_a_step_does_not_depend_on_the_size_of_the_gradient():
    moves = []
    for factor in (1.0, 1e-3):
        generator = torch.Generator().manual_seed(1)
        matrix = torch.zeros(16, 24).requires_grad_()
        matrix.grad = factor * torch.randn(16, 24, generator=generator)
        optimizer = Muon([matrix], weight_decay=0.0)
        optimizer.param_groups[0]["lr"] = 0.01
        optimizer.step()
        moves.append(matrix.detach())
    torch.testing.assert_close(moves[0], moves[1], rtol=1e-4, atol=1e-7)
    assert moves[0].square().mean().sqrt() == pytest.approx(0.2 * 0.01, rel=0.3)


def test_other_parameters_take_the_steps_of_adamw():
    results = []
    for new in (
        lambda p: Muon(p, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.0, weight_decay=0.1, betas=(0.9, 0.99)),
    ):
        generator = torch.Generator().manual_seed(2)
        parameters = [torch.ones(5).requires_grad_(), torch.ones(1, 64).requires_grad_()]
        optimizer = new(parameters)
        for _ in range(4):
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            for group in optimizer.param_groups:
                group["lr"] = 0.01
            optimizer.step()
        results.append([p.detach() for p in parameters])
    torch.testing.assert_close(*results)


def muon_recipe(folder):
    path = folder / "muon.toml"
    path.write_text(RECIPE.replace("[hyperparameters]", 'optimizer = "muon"\n\n[hyperparameters]'))
    return read_recipe(path)[0]


def test_a_run_reduces_the_errors_and_a_copy_continues_with_the_same_steps(data, tmp_path):  # noqa: F811
    recipe = muon_recipe(tmp_path)
    first = prepare(recipe, data, tmp_path, is_compiled=False).trainer
    stage, (sample, *_) = recipe.stages[0], first.train
    losses = [first.take_step(stage, sample, 5e-3)[1] for _ in range(10)]
    assert losses[-1] < 0.8 * losses[0]
    first.save()
    second = prepare(recipe, data, tmp_path, is_compiled=False).trainer
    second.load()
    for trainer in (first, second):
        for _ in range(2):
            trainer.take_step(stage, sample, 5e-3)
    for one, other in zip(first.parameters, second.parameters, strict=True):
        assert torch.equal(one, other)


def test_an_unknown_optimizer_is_refused(tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text('optimizer = "sgd"\n' + RECIPE)
    with pytest.raises(ValueError, match="optimizer: expected one of adamw, muon, got 'sgd'"):
        read_recipe(path)


def test_recipes_without_the_field_keep_their_hash(tmp_path):
    path = tmp_path / "argon.toml"
    path.write_text(RECIPE)
    before, _ = read_recipe(path)
    path.write_text('optimizer = "adamw"\n' + RECIPE)
    assert read_recipe(path)[0].sha256() == before.sha256()
    assert muon_recipe(tmp_path).sha256() != before.sha256()
