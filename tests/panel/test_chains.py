"""Whatever operators lie between a picture and its tokens, no token is put in a wrong place.

Where a recording gives a token a place, this is the middle of the pixels that change it, to within
half a cell. A token that it says lies nowhere (NaN) depends on no pixel, or on pixels all over the
picture. Else it says that the place is lost: it gives none at all, or x is infinite, and names the
operator.
"""

import pytest
import torch
from torch.nn import functional as F

import attnviz
from panel.chains import HEIGHT, WIDTH
from panel.chains_more import draw
from panel.influence import places_of

CHAINS = 300


def _picture() -> torch.Tensor:
    return torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)) + 0.5


@pytest.mark.parametrize("seed", range(CHAINS))
def test_no_token_of_a_random_chain_is_in_a_wrong_place(seed: int) -> None:
    chain, picture = draw(seed), _picture()
    try:
        true = places_of(chain, picture)
    except (RuntimeError, IndexError) as error:
        pytest.skip(f"no such chain: {chain} ({str(error).splitlines()[0][:60]})")
    with torch.no_grad(), attnviz.record(picture=picture) as recording:
        tokens = chain(picture)
        F.scaled_dot_product_attention(tokens[:, None], tokens[:, None], tokens[:, None])
    found = recording[-1].query_positions
    if found is None:
        return  # places are lost, and it says so
    assert recording.operators or not found.isinf().any(), f"lost by no operator: {chain}"
    there, nowhere = found[0].isfinite().all(-1), found[0, :, 0].isnan()
    seen = true.middle.isfinite().all(-1)
    invented = there & ~seen
    assert not invented.any(), (
        f"{int(invented.sum())} tokens see no pixel and have a place: {chain}"
    )
    away = torch.where(there, true.wrong(found[0]), 0.0)
    assert not (away > 0).any(), (
        f"{int((away > 0).sum())} of {len(away)} tokens are up to {float(away.max()):.1f} pixels "
        f"away, a cell being {true.cell:.1f}: {chain}"
    )
    denied = nowhere & true.somewhere
    assert not denied.any(), f"{int(denied.sum())} tokens that see a place lie nowhere: {chain}"
