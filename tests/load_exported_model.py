"""Loads an exported causal language model where seqzoo is missing. Not a test: tests run it in a second environment.

    python -I load_exported_model.py EXPORTED THREADS

EXPORTED is a folder, or an id on the Hub that the environment names.

Reads `input_ids` from `inputs.safetensors` of the working directory; writes there `logits.safetensors`, `facts.json`
and `saved_again/`, the model and tokenizer saved a second time.
"""

import json
import sys
from pathlib import Path


try:
    import seqzoo
except ImportError as error:
    import_error = str(error)
else:
    sys.exit(f"seqzoo can be imported here, from {list(seqzoo.__path__)}: this environment proves nothing")

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, pipeline


exported = sys.argv[1]
torch.set_num_threads(int(sys.argv[2]))
input_ids = load_file("inputs.safetensors")["input_ids"]

tokenizer = AutoTokenizer.from_pretrained(exported, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(exported, trust_remote_code=True).eval()
with torch.no_grad():
    save_file({"logits": model(input_ids).logits}, "logits.safetensors")
generated = model.generate(
    input_ids, attention_mask=torch.ones_like(input_ids), min_new_tokens=8, max_new_tokens=8, do_sample=False
)

pipe = pipeline("text-generation", model=exported, trust_remote_code=True)
text = pipe("The", min_new_tokens=8, max_new_tokens=8, do_sample=False)[0]["generated_text"]

classifier = AutoModelForSequenceClassification.from_pretrained(exported, trust_remote_code=True, num_labels=3).eval()
with torch.no_grad():
    scores = classifier(input_ids[:1]).logits

model.save_pretrained("saved_again")
tokenizer.save_pretrained("saved_again")

facts = {
    "import_error": import_error,
    "transformers": transformers.__version__,
    "generated": generated.tolist(),
    "text": text,
    "scores": scores.tolist(),
}
Path("facts.json").write_text(json.dumps(facts), encoding="utf-8")
