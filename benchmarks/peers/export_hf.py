"""Make a folder in Hugging Face layout (f32 safetensors) of a GGUF file, with transformers.

python export_hf.py FILE.gguf FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import transformers

file, folder = Path(sys.argv[1]), Path(sys.argv[2])
model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
model.hf_quantizer = None  # the weights are dequantised, but it would refuse to save them
model.config.__dict__.pop("quantization_config", None)
model.save_pretrained(folder)
transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
