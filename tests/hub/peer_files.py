"""Run with a checkout of upstream: makes a model there, trains it for a few steps, and saves it with upstream's code.

python peer_files.py CHECKOUT BASE: writes BASE/base_checkpoints/d4/*.pt, BASE/tokenizer/ and BASE/expected.pt.
"""

from __future__ import annotations

import os
import sys

checkout, base = sys.argv[1:3]
os.environ |= {"NANOCHAT_BASE_DIR": base, "NANOCHAT_DTYPE": "float32", "TORCHDYNAMO_DISABLE": "1"}
sys.meta_path = [finder for finder in sys.meta_path if "nanochat" not in type(finder).__module__]  # ours, if installed
sys.path.insert(0, checkout)

import torch  # noqa: E402
from nanochat.checkpoint_manager import save_checkpoint  # noqa: E402
from nanochat.gpt import GPT, GPTConfig  # noqa: E402

from nanochat.tokenizer import RustBPETokenizer  # noqa: E402

torch.manual_seed(0)
tokenizer = RustBPETokenizer.train_from_iterator(
    iter(["the cat sat on the mat while seven brown foxes jumped over a lazy dog"] * 9), 300
)
tokenizer.save(os.path.join(base, "tokenizer"))
settings = {
    "sequence_len": 1024, "vocab_size": tokenizer.get_vocab_size(), "n_layer": 4, "n_head": 4, "n_kv_head": 2,
    "n_embd": 64,
}  # fmt: skip
modern = hasattr(GPTConfig, "window_pattern")
if modern:
    settings["window_pattern"] = "SSSL"
model = GPT(GPTConfig(**settings))
model.init_weights()
model.transformer.float()  # the first version keeps its token table in bfloat16 on a CPU, too
with torch.no_grad():
    for p in model.parameters():
        p.add_(torch.randn_like(p) * 0.1)
optimizers = [model.setup_optimizer()] if modern else model.setup_optimizers()
for _ in range(3):
    ids = torch.randint(0, 300, (2, 65))
    model(ids[:, :-1].contiguous(), ids[:, 1:].contiguous()).backward()
    for optimizer in optimizers:
        optimizer.step()
    model.zero_grad()
states = [optimizer.state_dict() for optimizer in optimizers]
kept = states[0] if modern else states
meta = {"step": 3, "val_bpb": float("inf"), "model_config": settings, "user_config": {}, "device_batch_size": 2,
        "total_batch_size": 2048, "loop_state": {"min_val_bpb": float("inf"), "smooth_train_loss": 5.5,
                                                 "total_training_time": 7.25}}  # fmt: skip
weights = {(name if modern else f"_orig_mod.{name}"): t for name, t in model.state_dict().items()}
save_checkpoint(os.path.join(base, "base_checkpoints", "d4"), 3, weights, kept, meta)

# What a file of ours must then hold: the state by the name of the weight.
names = {p: name for name, p in model.named_parameters()}
state = {}
for optimizer in optimizers:
    for group in optimizer.param_groups:
        for at, p in enumerate(group["params"]):
            held = optimizer.state[group["params"][0] if "ns_steps" in group and modern else p]
            stacked = modern and "momentum_buffer" in held
            for key, value in held.items():
                state[f"{names[p]}|{key}"] = value[at].clone() if stacked else value
text = "the cat sat, 12345 times é\n on 世界"
ids = torch.randint(0, 300, (2, 1024))
with torch.no_grad():
    logits = model(ids)
torch.save(
    {"ids": ids, "logits": logits, "state": state, "text": text, "tokens": tokenizer.encode(text)},
    os.path.join(base, "expected.pt"),
)
