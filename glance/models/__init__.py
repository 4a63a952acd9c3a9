"""The base model: what `--model` means, its family, the files of LoRAs."""
