"""Makes a model of Llama's shape with random weights, token ids and an initial adapter, where no model can be fetched.

    python3 bench/peers/make_device_inputs.py FOLDER [--shape 1b|3b|7b] [--vocabulary 32000]

Speed and memory of training do not depend on what the weights are. Writes FOLDER/model (BF16 safetensors and config.json),
FOLDER/tokens.safetensors (`train` [64, 2048] i32) and FOLDER/init_adapter (PEFT, r 16, alpha 32, all seven projections, B = 0).
"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "interop"))

import quiet  # noqa: E402, F401
import torch  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

SHAPES = {  # hidden, intermediate, layers, heads, key and value heads
    "1b": (2048, 5632, 22, 32, 4),
    "3b": (3200, 8640, 26, 32, 32),
    "7b": (4096, 11008, 32, 32, 32),
}
BLOCKS, BLOCK_TOKENS = 64, 2048


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--device", default="cuda", help="where the weights are drawn")
    arguments = parser.parse_args()
    hidden, intermediate, layers, heads, kv_heads = SHAPES[arguments.shape]
    config = LlamaConfig(hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers, num_attention_heads=heads,
                         num_key_value_heads=kv_heads, vocab_size=arguments.vocabulary, max_position_embeddings=BLOCK_TOKENS,
                         tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=2)
    torch.manual_seed(1)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(arguments.device):
        model = LlamaForCausalLM(config)
    model.save_pretrained(arguments.folder / "model", max_shard_size="5GB")
    tokens = torch.randint(3, arguments.vocabulary, (BLOCKS, BLOCK_TOKENS), dtype=torch.int32, device="cpu")
    save_file({"train": tokens}, arguments.folder / "tokens.safetensors")
    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM",
                      target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
    adapted = get_peft_model(model, lora)
    adapted.peft_config["default"].base_model_name_or_path = str(arguments.folder / "model")
    adapted.save_pretrained(arguments.folder / "init_adapter")


if __name__ == "__main__":
    main()
