import pytest
import torch
from torch import nn

from agentrl.learning import optimizers
from agentrl.learning.optimizers import Float32Muon, Schedule, emulates_bfloat16, make_optimizers, orthogonal, set_lr


def fractions(schedule, steps, total=None):
    return [schedule.fraction(step, total) for step in range(steps)]


def test_constant_with_warmup():
    assert fractions(Schedule(warmup_steps=4), 6) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_linear_anneal_by_hand():
    schedule = Schedule("linear", warmup_steps=2, final=0.2)
    assert fractions(schedule, 8, 6) == pytest.approx([0.5, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2, 0.2])


def test_cosine_anneal_by_hand():
    schedule = Schedule("cosine", final=0.1)
    half = 0.5**0.5
    expected = [1.0, 0.1 + 0.45 * (1 + half), 0.55, 0.1 + 0.45 * (1 - half), 0.1]
    assert fractions(schedule, 5, 4) == pytest.approx(expected)


def test_an_anneal_needs_its_length():
    with pytest.raises(ValueError, match="needs total_steps"):
        Schedule("cosine").fraction(0)
    with pytest.raises(ValueError, match="'constant', 'linear' or 'cosine'"):
        Schedule("sine")


def make(model, name="muon", **overrides):
    settings = {"lr": 0.1, "betas": (0.9, 0.99), "weight_decay": 0.5, "adamw_lr": 0.01} | overrides
    return make_optimizers(model, name, **settings)


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_parameter_has_exactly_one_owner(make_model, kind, name):
    model = make_model(kind)
    owned = [id(p) for o in make(model, name) for g in o.param_groups for p in g["params"]]
    assert sorted(owned) == sorted(id(p) for p in model.parameters())


def test_muon_owns_matrices_of_layers_and_neither_embeddings_nor_head(make_model):
    model = make_model("llama")
    muon, adamw = make(model)
    names = {id(p): n for n, p in model.named_parameters()}
    muon_names = {names[id(p)] for g in muon.param_groups for p in g["params"]}
    assert all(".layers." in n and n.endswith("_proj.weight") for n in muon_names)
    assert len(muon_names) == 2 * 7
    decayed = {names[id(p)] for g in adamw.param_groups if g["weight_decay"] for p in g["params"]}
    assert decayed == {"model.embed_tokens.weight", "lm_head.weight"}


def test_rates_follow_their_own_peaks(make_model):
    optimizers = make(make_model())
    for fraction in (0.5, 0.25):
        set_lr(optimizers, fraction)
        assert [g["lr"] for o in optimizers for g in o.param_groups] == [0.1 * fraction, *[0.01 * fraction] * 2]


def test_adamw_first_step_by_hand():
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0]]))
    (optimizer,) = make(model, "adamw", lr=0.1, weight_decay=0.5)
    model.weight.grad = torch.tensor([[3.0, -0.2]])
    optimizer.step()
    # Decay multiplies by 1 - lr * decay; the first bias-corrected step has size lr.
    assert model.weight.flatten().tolist() == pytest.approx([0.95 - 0.1, -1.9 + 0.1], abs=1e-6)


COEFFICIENTS = (3.4445, -4.7750, 2.0315)


@pytest.mark.parametrize("emulates", [False, True])
def test_a_cpu_without_products_in_bfloat16_makes_those_of_muon_in_float32(make_model, monkeypatch, emulates):
    monkeypatch.setattr(optimizers, "emulates_bfloat16", lambda device: emulates and device.type == "cpu")
    muon, _ = make(make_model())
    assert type(muon) is (Float32Muon if emulates else torch.optim.Muon)


def test_what_is_emulated_is_known_for_this_machine():
    assert emulates_bfloat16(torch.device("cpu")) is not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert not emulates_bfloat16(torch.device("meta"))


@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (4, 9)])
def test_updates_in_float32_are_those_of_torch_but_for_its_rounding(shape):
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), [torch.randn(shape) for _ in range(3)]
    found = []
    for kind in (torch.optim.Muon, Float32Muon):
        matrix = nn.Parameter(start.clone())
        optimizer = kind([matrix], lr=0.1, weight_decay=0.5)
        for gradient in gradients:
            matrix.grad = gradient.clone()
            optimizer.step()
        found.append((matrix.detach(), optimizer.state_dict()))
    (theirs, their_state), (ours, our_state) = found
    assert (ours - theirs).abs().max() < 0.01 * (theirs - start).abs().max()
    assert our_state["param_groups"] == their_state["param_groups"]  # a checkpoint of one is one of the other
    torch.testing.assert_close(our_state["state"], their_state["state"], rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (4, 9)])
def test_newton_and_schulz_by_singular_values(shape):
    """The iteration is the odd polynomial s -> a s + b s^3 + c s^5 on each singular value."""
    torch.manual_seed(1)
    matrix = torch.randn(shape, dtype=torch.float64)
    a, b, c = COEFFICIENTS
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    s = s / matrix.norm()
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    found = orthogonal(matrix, COEFFICIENTS, 5, 1e-7)
    torch.testing.assert_close(found, u @ s.diag() @ v, rtol=0, atol=1e-12)
    assert float(torch.linalg.svdvals(found).max()) < 1.5
    torch.testing.assert_close(orthogonal(matrix.float(), COEFFICIENTS, 5, 1e-7).double(), found, rtol=0, atol=1e-5)


def test_a_matrix_without_a_gradient_is_left_alone():
    with_gradient, without = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = Float32Muon([with_gradient, without], lr=0.1)

    def loss():
        optimizer.zero_grad()
        (with_gradient * torch.tensor([[1.0, 2.0], [3.0, 5.0]])).sum().backward()
        return 7.0

    assert optimizer.step(loss) == 7.0
    assert torch.equal(without, torch.ones(2, 2))
    assert not torch.equal(with_gradient, torch.ones(2, 2))


def test_a_frozen_model_is_refused():
    with pytest.raises(ValueError, match="nothing can train"):
        make(nn.Linear(2, 2).requires_grad_(False))
    with pytest.raises(ValueError, match="'adamw' or 'muon'"):
        make(nn.Linear(2, 2), "sgd")


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_value_head_belongs_to_adamw(make_model, name):
    model, head = make_model("llama"), nn.Linear(32, 1)
    optimizers = make(model, name, head=head)
    owned = [id(p) for g in optimizers[-1].param_groups for p in g["params"]]
    assert isinstance(optimizers[-1], torch.optim.AdamW)
    assert {id(p) for p in head.parameters()} <= set(owned)
