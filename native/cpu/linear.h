// Rows times a matrix in panels: which tiles, in which order, and what is done to their sums.
//
// A strip of panels stays in the second cache while all rows of the step go by, so memory is read once per step. Rows
// are cut evenly: sixteen make two tiles of eight, not one of twelve and one of four. Results depend on none of it.
#pragma once

#include <algorithm>

#include "functions.h"
#include "highest.h"
#include "linear_whole.h"
#include "program.h"
#include "threads.h"
#include "tiles.h"

namespace thaloom {

// A matrix of a stack, and what is added to its results.
struct Factor {
  Matrices w;
  size_t matrix = 0;
  const float *bias = nullptr;  // padded to whole panels
};

// Rows times a matrix, and what becomes of the sums, in this order: plus the bias; times the activation of what `gate`
// gives for the same rows; plus `added`; into `out`, whose rows have room for whole panels, or else to `target`, `unit`
// panels at a time, in the forms that it is read in, or to `highest`. The same for every format.
struct Product {
  Factor up;
  Rows out = {};
  const Target *target = nullptr;
  size_t unit = 1;
  Highest *highest = nullptr;
  const Factor *gate = nullptr;  // of the same shape and dtype
  uint32_t activation = 0;
  Rows added = {};  // none without a base

  // `sums`, and `gates` if there is a gate: of `num_rows` rows from `row` on, `num_panels` panels from `panel` on. Row r of
  // these goes to `to(r)`.
  template <class To>
  void finish(float *sums, float *gates, size_t row, size_t num_rows, size_t panel, size_t num_panels, const To &to) const {
    const size_t first = panel * kGroup, width = num_panels * kGroup;
    add_bias(up, sums, num_rows, first, width);
    if (gate != nullptr) {
      add_bias(*gate, gates, num_rows, first, width);
      gate_row(activation, gates, sums, sums, num_rows * width);  // of all rows at once: they stand side by side
    }
    for (size_t r = 0; r < num_rows; ++r, sums += width) {
      float *y = to(r);
      if (added.base == nullptr) {
        for (size_t k = 0; k < width; k += kLanes) store(y + k, load(sums + k));
      } else {
        const float *x = added.at(row + r) + first;
        for (size_t k = 0; k < width; k += kLanes) store(y + k, load(x + k) + load(sums + k));
      }
    }
  }

 private:
  static void add_bias(const Factor &factor, float *sums, size_t num_rows, size_t first, size_t width) {
    if (factor.bias == nullptr) return;
    for (size_t r = 0; r < num_rows; ++r, sums += width)
      for (size_t k = 0; k < width; k += kLanes) store(sums + k, load(sums + k) + load(factor.bias + first + k));
  }
};

inline const Tiles &tiles_of(uint32_t dtype) {
  switch (dtype) {
    case THALOOM_F32: return TilesOf<F32Tile>::tiles;
    case THALOOM_BF16: return TilesOf<BF16Tile>::tiles;
    case THALOOM_BF16_WIDE: return TilesOf<WidenedTile>::tiles;
    case THALOOM_INT8: return TilesOf<WholeTile<THALOOM_INT8>>::tiles;
    case THALOOM_INT8_GROUPS: return TilesOf<WholeTile<THALOOM_INT8_GROUPS>>::tiles;
    default: return TilesOf<WholeTile<THALOOM_INT4>>::tiles;
  }
}

// Tiles that so many rows are cut into, evenly.
inline size_t tiles_for(const Tiles &tiles, size_t num_rows) {
  const auto largest = static_cast<size_t>(tiles.rows), many = static_cast<size_t>(tiles.many);
  const size_t most = num_rows > many ? std::min<size_t>(largest, 8) : largest;
  return (num_rows + most - 1) / most;
}

// Panels of a matrix of `dtype` handled together for so many rows, so that `num_panels` make `num_parts` to share out.
inline size_t strip_panels(uint32_t dtype, size_t num_rows, size_t num_panels, size_t num_parts) {
  if (num_rows == 0) return 1;
  const Tiles &tiles = tiles_of(dtype);
  const size_t num_tiles = tiles_for(tiles, num_rows);
  auto strip = static_cast<size_t>(tile_panels(static_cast<int>((num_rows + num_tiles - 1) / num_tiles), tiles.sums));
  while (strip > 1 && num_panels < num_parts * strip) strip /= 2;
  return strip;
}

inline constexpr size_t kMostUnit = form_reach(Form::kWholeFor4) / kGroup;  // panels that are made ready together

inline constexpr size_t kTilesTogether = 4;  // that a panel goes by before the next one of its unit does

// Bytes that tiles fetch ahead of themselves in a strip that is in the second cache already: 3 to 7 % at 32 and 48 rows.
inline constexpr size_t kNear = 1024;

// All rows over the panels [begin, end), in tiles of `most` panels, as strip_panels says.
inline void multiply(const Product &product, size_t begin, size_t end, size_t most, const Inputs &in, size_t num_rows) {
  const Matrices &w = product.up.w;
  const Tiles &tiles = tiles_of(w.dtype);
  const size_t num_tiles = tiles_for(tiles, num_rows), longest = std::max(most, product.unit);
  const bool is_stored = product.target == nullptr && product.highest == nullptr;  // as it comes out of a tile
  alignas(64) float sums[kAccumulators * kLanes], gates[kAccumulators * kLanes];
  alignas(64) float unit[kTilesTogether * kTileRows * kMostUnit * kGroup];  // what is not stored as it is, row after row
  for (size_t length; begin < end; begin += length) {
    length = end - begin >= longest ? longest : is_stored ? 1 : end - begin;
    Strip strip = {.panels = nullptr, .panel_bytes = w.panel_bytes, .x = nullptr, .x_stride = in.stride,
                   .columns = w.columns, .ahead = length * w.panel_bytes};
    for (size_t block = 0; block < num_tiles; block += kTilesTogether) {
      const size_t last = std::min(block + kTilesTogether, num_tiles), top = share(num_rows, block, num_tiles).begin;
      for (size_t panel = begin, width; panel < begin + length; panel += width) {
        width = begin + length - panel >= most ? most : 1;
        for (size_t i = block; i < last; ++i) {
          const auto [row, after] = share(num_rows, i, num_tiles);
          const Tile tile = tiles.of[after - row - 1][width / 2];  // 1, 2, 4 panels: 0, 1, 2
          strip.x = in.at(row);
          strip.ahead = i == 0 ? length * w.panel_bytes : kNear;  // the first tile asks for the next strip
          if (product.gate != nullptr) {
            strip.panels = product.gate->w.panel(product.gate->matrix, panel);
            tile(strip, gates);
          }
          strip.panels = w.panel(product.up.matrix, panel);
          tile(strip, sums);
          product.finish(sums, gates, row, after - row, panel, width, [&](size_t r) {
            if (is_stored) return product.out.at(row + r) + panel * kGroup;
            return unit + ((row - top + r) * length + panel - begin) * kGroup;
          });
        }
      }
      if (is_stored) continue;
      const size_t first = begin * kGroup, columns = std::min<size_t>(length * kGroup, w.rows - first);
      for (size_t r = top, at = 0; r < share(num_rows, last - 1, num_tiles).end; ++r, at += length * kGroup) {
        if (product.target != nullptr) product.target->write(r, first, unit + at, columns);
        else product.highest->look(r, first, unit + at, columns);
      }
    }
  }
}

}  // namespace thaloom
