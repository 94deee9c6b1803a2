// Rows times a matrix in panels: which tiles, in which order, and what is done to their sums.
//
// A strip of panels stays in the second cache while all rows of the step go by, so memory is read once per step. Rows
// are cut evenly: sixteen make two tiles of eight, not one of twelve and one of four. Results depend on none of it.
#pragma once

#include <algorithm>

#include "linear_whole.h"
#include "threads.h"
#include "tiles.h"

namespace thaloom {

// What becomes of the sums of a product: plus the bias, into `out`.
struct Finish {
  Rows out;
  const float *bias = nullptr;  // padded to whole panels

  // `sums`: of `num_rows` rows from `row` on, `num_panels` panels from `panel` on.
  void operator()(const float *sums, size_t row, size_t num_rows, size_t panel, size_t num_panels) const {
    const size_t first = panel * kGroup, width = num_panels * kGroup;
    for (size_t r = 0; r < num_rows; ++r) {
      float *y = out.at(row + r) + first;
      for (size_t k = 0; k < width; k += kLanes, sums += kLanes)
        store(y + k, bias == nullptr ? load(sums) : load(sums) + load(bias + first + k));
    }
  }
};

inline const Tiles &tiles_of(uint32_t dtype) {
  switch (dtype) {
    case THALOOM_F32: return TilesOf<F32Tile>::tiles;
    case THALOOM_BF16: return TilesOf<BF16Tile>::tiles;
    case THALOOM_INT8: return TilesOf<WholeTile<THALOOM_INT8>>::tiles;
    case THALOOM_INT8_GROUPS: return TilesOf<WholeTile<THALOOM_INT8_GROUPS>>::tiles;
    default: return TilesOf<WholeTile<THALOOM_INT4>>::tiles;
  }
}

// All rows over the panels [begin, end) of one matrix of the stack. The rows of `finish.out` have room for whole panels.
inline void multiply(const Matrices &w, size_t matrix, size_t begin, size_t end, const Inputs &in, size_t num_rows,
                     const Finish &finish) {
  if (num_rows == 0) return;
  const Tiles &tiles = tiles_of(w.dtype);
  const auto most_rows = static_cast<size_t>(tiles.most_rows());
  const size_t num_tiles = (num_rows + most_rows - 1) / most_rows;
  const auto most = static_cast<size_t>(tile_panels(static_cast<int>((num_rows + num_tiles - 1) / num_tiles), tiles.sums));
  alignas(64) float sums[kAccumulators * kLanes];
  while (begin < end) {
    const size_t num_panels = end - begin >= most ? most : 1;
    Strip strip = {.panels = w.panel(matrix, begin), .panel_bytes = w.panel_bytes, .x = nullptr, .x_stride = in.stride,
                   .columns = w.columns, .ahead = num_panels * w.panel_bytes};
    for (size_t i = 0; i < num_tiles; ++i) {
      const auto [row, after] = share(num_rows, i, num_tiles);
      strip.x = in.at(row);
      tiles.of[after - row - 1][num_panels / 2](strip, sums);  // 1, 2, 4 panels: 0, 1, 2
      finish(sums, row, after - row, begin, num_panels);
      strip.ahead = 0;  // the first tile has asked for the next strip
    }
    begin += num_panels;
  }
}

}  // namespace thaloom
