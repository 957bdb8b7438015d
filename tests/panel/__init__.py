"""Small models as people write them, each with what is true of it, and random chains of operators.

    python -m pytest tests/panel

- `plain`, `frameworks`, `spellings`, `pieces`, `moved`, `warped`, `hybrids`, `outputs`: the models,
  by what is odd in them. Beside each, `@expects(…)` writes down where its tokens lie.
- `packaged`, `packaged_more`: vit-pytorch's; where it, einops and torchvision are not installed,
  their tests are skipped (`pip install einops torchvision; pip install --no-deps vit-pytorch`).
- `truth`: places of tokens, and the maps that follow; `notes`: weights, by a model's own code;
  `judge`: the command line's answer beside these; `test_panel`: all models, all grad modes.
- `chains`, `chains_more`: operators between picture and tokens; `influence`: where a token lies, by
  the pixels that change it; `test_chains`: 300 chains.
- `test_oracles`: the oracles themselves.
"""
