"""The functions of `search` as GPU kernels: every atom is compared with all atoms of its system.

The time grows with the square of the size of a system, but with a small prefactor, which
`bench.measurements.gpu` measures. No sorting, counting or allocation depends on the data, so the
host need not wait for a result. The order of a row depends on the system alone.
"""

# The parameters of Triton kernels have no types.
# mypy: ignore-errors

import numpy as np
import torch
import triton
import triton.language as tl

from twinforce_models.tables.table import Places

_BLOCK = 128


def search(
    places: Places, cutoff: float, width: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return neighbors, vectors, shifts and counts, as in `Table`."""
    n_atoms, like = len(places.positions), places.positions
    neighbors = torch.empty(n_atoms, width, dtype=torch.int64, device=like.device)
    vectors = torch.empty(n_atoms, width, 3, dtype=dtype, device=like.device)
    shifts = torch.empty(n_atoms, width, dtype=torch.int32, device=like.device)
    counts = torch.empty(n_atoms, dtype=torch.int32, device=like.device)
    _search[(n_atoms,)](
        places.positions,
        places.owner,
        places.first,
        places.stop,
        places.cells,
        places.inverses,
        places.reach,
        neighbors,
        vectors,
        shifts,
        counts,
        *_halves(cutoff),
        width,
        BLOCK=_BLOCK,
        num_warps=1,
    )
    return neighbors, vectors, shifts, counts


def _halves(number: float) -> tuple[float, float]:
    """Return a number in single precision, as kernels receive it, and the remainder."""
    single = float(np.float32(number))
    return single, number - single


def reversed_places(
    neighbors: torch.Tensor, shifts: torch.Tensor, counts: torch.Tensor
) -> torch.Tensor:
    """Return the reverse index of each pair: see `search.reversed_places`."""
    n_atoms, width = neighbors.shape
    neighbors, shifts, counts = (each.contiguous() for each in (neighbors, shifts, counts))
    there = torch.empty_like(neighbors)
    block = min(_BLOCK, triton.next_power_of_2(width))
    _reverse[(n_atoms,)](neighbors, shifts, counts, there, width, BLOCK=block, num_warps=1)
    return there


@triton.jit
def _search(
    positions,
    owner,
    first,
    stop,
    cells,
    inverses,
    reach,
    neighbors,
    vectors,
    shifts,
    counts,
    cutoff,
    rest,
    width,
    BLOCK: tl.constexpr,  # noqa: N803
):
    i = tl.program_id(0)
    system = tl.load(owner + i)
    begin = tl.load(first + system)
    end = tl.load(stop + system)
    x, y, z = (
        tl.load(positions + 3 * i),
        tl.load(positions + 3 * i + 1),
        tl.load(positions + 3 * i + 2),
    )
    longest = x * 0 + cutoff + rest  # in float64, as all lengths until they are stored
    c = cells + 9 * system
    ax, ay, az = tl.load(c), tl.load(c + 1), tl.load(c + 2)
    bx, by, bz = tl.load(c + 3), tl.load(c + 4), tl.load(c + 5)
    cx, cy, cz = tl.load(c + 6), tl.load(c + 7), tl.load(c + 8)
    v = inverses + 9 * system
    xa, xb, xc = tl.load(v), tl.load(v + 1), tl.load(v + 2)
    ya, yb, yc = tl.load(v + 3), tl.load(v + 4), tl.load(v + 5)
    za, zb, zc = tl.load(v + 6), tl.load(v + 7), tl.load(v + 8)
    reach_a = tl.load(reach + 3 * system)
    reach_b = tl.load(reach + 3 * system + 1)
    reach_c = tl.load(reach + 3 * system + 2)
    row = i.to(tl.int64) * width
    n_found = 0
    for start in range(begin, end, BLOCK):
        j = start + tl.arange(0, BLOCK)
        is_there = j < end
        dx = tl.load(positions + 3 * j, mask=is_there, other=0.0) - x
        dy = tl.load(positions + 3 * j + 1, mask=is_there, other=0.0) - y
        dz = tl.load(positions + 3 * j + 2, mask=is_there, other=0.0) - z
        nearest_a = tl.floor(0.5 - (dx * xa + dy * ya + dz * za))
        nearest_b = tl.floor(0.5 - (dx * xb + dy * yb + dz * zb))
        nearest_c = tl.floor(0.5 - (dx * xc + dy * yc + dz * zc))
        for image_a in range(-reach_a, reach_a + 1):
            for image_b in range(-reach_b, reach_b + 1):
                for image_c in range(-reach_c, reach_c + 1):
                    na = nearest_a + image_a
                    nb = nearest_b + image_b
                    nc = nearest_c + image_c
                    px = dx + (na * ax + nb * bx + nc * cx)
                    py = dy + (na * ay + nb * by + nc * cy)
                    pz = dz + (na * az + nb * bz + nc * cz)
                    shift = ((na * 128 + nb) * 128 + nc).to(tl.int32)
                    is_near = is_there & (px * px + py * py + pz * pz < longest * longest)
                    is_near = is_near & ((j != i) | (shift != 0))
                    n_near = tl.sum(is_near.to(tl.int32), axis=0)
                    if n_near > 0:
                        place = n_found + tl.cumsum(is_near.to(tl.int32), axis=0) - 1
                        is_kept = is_near & (place < width)
                        tl.store(neighbors + row + place, j.to(tl.int64), mask=is_kept)
                        tl.store(shifts + row + place, shift, mask=is_kept)
                        tl.store(vectors + 3 * (row + place), px, mask=is_kept)
                        tl.store(vectors + 3 * (row + place) + 1, py, mask=is_kept)
                        tl.store(vectors + 3 * (row + place) + 2, pz, mask=is_kept)
                        n_found += n_near
    tl.store(counts + i, n_found)
    for start in range(0, width, BLOCK):
        k = start + tl.arange(0, BLOCK)
        is_left = (k >= n_found) & (k < width)
        nothing = longest * 0 + tl.zeros([BLOCK], dtype=tl.float32)
        tl.store(neighbors + row + k, (i + tl.zeros([BLOCK], dtype=tl.int64)), mask=is_left)
        tl.store(shifts + row + k, tl.zeros([BLOCK], dtype=tl.int32), mask=is_left)
        tl.store(vectors + 3 * (row + k), nothing + longest, mask=is_left)
        tl.store(vectors + 3 * (row + k) + 1, nothing, mask=is_left)
        tl.store(vectors + 3 * (row + k) + 2, nothing, mask=is_left)


@triton.jit
def _reverse(neighbors, shifts, counts, there, width, BLOCK: tl.constexpr):  # noqa: N803
    i = tl.program_id(0)
    row = i.to(tl.int64) * width
    n_real = tl.minimum(tl.load(counts + i), width)
    for start in range(0, width, BLOCK):
        k = start + tl.arange(0, BLOCK)
        is_real = k < n_real
        j = tl.load(neighbors + row + k, mask=is_real, other=0)
        back = -tl.load(shifts + row + k, mask=is_real, other=0)
        found = row + k
        for m in range(0, width):
            place = j * width + m
            is_back = is_real & (tl.load(neighbors + place, mask=is_real, other=-1) == i)
            is_back = is_back & (tl.load(shifts + place, mask=is_real, other=0) == back)
            found = tl.where(is_back, place, found)
        tl.store(there + row + k, found, mask=k < width)
